"""Backups in a directory, each complete by itself, which share the files of shards that have not changed between them.

A backup ``DIR/NAME-20261126T214012Z`` is a store. What does not change from one to the next is a hard link: so a shard
takes its place on the disk once, and each backup can be removed without the others. A shard whose file has other names
is not opened for writing: that would change the other backups.

``.rack-backup`` beside a backup says of which store it is, in which state each shard was (its *mark*), and what the
backup's own files are. A shard is linked if nothing says that it has changed, on either side.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fcntl import LOCK_EX, flock
from typing import Any, NamedTuple, Self

from rack.care.alone import existing
from rack.care.remove import remove
from rack.care.rename import rename
from rack.care.served import file_path
from rack.errors import StoreExistsError, StoreInUseError, StoreNotFoundError, StorePathError, UnsupportedOperation
from rack.shard import served_by, shard_class
from rack.shard.address import Address
from rack.shard.base import Shard, Snapshot
from rack.store import files, registry
from rack.store.backup import write_backup
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Manifest, Request, absolute_path, backup_path, manifest_path, name_problem, shard_path
from rack.store.opening import Mode
from rack.store.openstore import Hold
from rack.system.arguments import whole
from rack.system.descriptor import Descriptor
from rack.system.disk import path_error
from rack.system.imports import importing

_STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"(?s)(.+)-(\d{8}T\d{6}Z)(?:-(\d+))?")


class Told(NamedTuple):
    """What is put down beside a backup. None in place of a mark: it is not known whether the shard changes."""

    source: str  # id of the store
    marks: list[str | None]
    files: list[list[int]]  # what tells the backup's own files from others, and from what they are when written to

    @classmethod
    def read(cls, path: str) -> Told | None:
        with importing():
            import json

        try:
            with open(backup_path(path), "rb") as file:
                told = cls(**json.loads(file.read()))
                return told if len(told.marks) == len(told.files) else None
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: str) -> None:
        with importing():
            import json

        with open(backup_path(path), "w") as file:
            json.dump(self._asdict(), file)
            file.flush()
            os.fsync(file.fileno())


class Increment:
    """The next backup of the store at ``path`` in a directory. To be entered before the store's snapshot is taken.

    While it is entered others who make backups in the directory wait.
    """

    def __init__(self, path: str, manifest: Manifest, directory: str) -> None:
        self._path = path
        self._manifest = manifest
        self._cls = shard_class(manifest.engine)
        self._directory = directory
        self._turn = Descriptor()  # of the directory, locked
        self._before: list[str | None] = []
        self._marks_of_backup: list[str | None] = []
        self.linked: dict[int, str] = {}
        self.id: str | None = None
        self.target = ""

    def __enter__(self) -> Self:
        try:
            self._turn.open(os.open, self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flock(self._turn.fileno(), LOCK_EX)
            _remove_left(self._directory, os.path.basename(self._path))
            self.target = _next(self._directory, os.path.basename(self._path))
            self._before = self._marks()
            return self
        except BaseException:
            self._turn.close()
            raise

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._turn.close()

    def _marks(self) -> list[str | None]:
        suffix = self._cls.suffix
        return [self._cls.mark(shard_path(self._path, number, suffix)) for number in range(self._manifest.shards)]

    def link(self) -> Mapping[int, str]:
        """After the snapshot: return, and keep, for each shard that has not changed since the last backup its file."""
        now = self._marks()
        found = backups(self._directory, os.path.basename(self._path))
        last = Told.read(found[-1]) if found else None
        of_last = Manifest.read(found[-1]) if found else None
        self._marks_of_backup = list(self._before)
        if last is None or of_last is None or last.source != self._manifest.id:
            return self.linked
        if len(last.marks) != self._manifest.shards:
            return self.linked
        same = ("engine", "shards", "layout", "hash")
        if any(getattr(of_last, name) != getattr(self._manifest, name) for name in same):
            return self.linked
        for number in range(self._manifest.shards):
            file = shard_path(found[-1], number, self._cls.suffix)
            mark = now[number]
            if mark is not None and mark == last.marks[number] and _identity(file) == last.files[number]:
                self.linked[number] = file
                self._marks_of_backup[number] = mark
        if self.linked:
            self.id = of_last.id  # which is in the shards
        return self.linked

    def tell(self, path: str) -> None:
        """Put down what the backup at ``path`` is, before it has its name."""
        shards = [shard_path(path, number, self._cls.suffix) for number in range(self._manifest.shards)]
        Told(self._manifest.id, self._marks_of_backup, [_identity(shard) for shard in shards]).write(path)

    def forget(self, keep: int) -> list[str]:
        """Remove all backups but the last ``keep``, and those that are in use; return which were removed."""
        removed = []
        for path in backups(self._directory, os.path.basename(self._path))[:-keep]:
            try:
                remove(path)
                removed.append(path)
            except StoreInUseError:
                continue
        return removed


def _remove_left(directory: str, name: str) -> None:
    """Remove what somebody who was killed while making a backup has left; the caller has the turn."""
    left = re.compile(rf"{re.escape(name)}-\d{{8}}T\d{{6}}Z(?:-\d+)?-anonymous-[0-9a-f]{{12}}[.-].*", re.DOTALL)
    files.unlink([os.path.join(directory, file) for file in os.listdir(directory) if left.fullmatch(file)])


def _identity(file: str) -> list[int]:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _next(directory: str, name: str) -> str:
    """Return the path of a new backup, behind all others in the order of their names."""
    found = [match for path in backups(directory, name) if (match := _NAME.fullmatch(os.path.basename(path)))]
    stamp = max([datetime.now(UTC).strftime(_STAMP), *(match[2] for match in found)])  # clocks may be set back
    last = max((int(match[3] or 1) for match in found if match[2] == stamp), default=0)
    return os.path.join(directory, f"{name}-{stamp}" if not last else f"{name}-{stamp}-{last + 1}")


def backups(directory: str, name: str | None = None) -> list[str]:
    """Return the paths of the backups in a directory, of the store ``name`` or of any, the oldest first."""
    ending = manifest_path("")
    found = []
    for file in os.listdir(directory):
        match = _NAME.fullmatch(file.removesuffix(ending)) if file.endswith(ending) else None
        if match is not None and name in (None, match[1]):
            path = os.path.join(directory, match[0])
            if os.path.exists(backup_path(path)):
                found.append((match[2], int(match[3] or 1), path))
    return [path for _, _, path in sorted(found)]


def check_directory(directory: str) -> None:
    """Make the directory of backups, unless it is there."""
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise StorePathError(error.errno, f"{error.strerror}: backups are to be in it", directory) from error


def backup(
    name: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    keep: int | None = None,
    workers: int = 1,
) -> str:
    """Add a backup of a store to those in a directory; shards that have not changed since the last one are shared.

    The store may be in use. Each backup is a store of its own, named like the store with the time (UTC) behind it, and
    complete without the others. It can be opened to read, and restored with :func:`rack.restore`.

    O(n) for the shards that have changed. Atomic: all shards are of one instant, and the backup is there as a whole, on
    the disk, or not at all.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param directory: where the backups are; it is made if it is not there.
    :param keep: remove all but the last so many of this store's backups there, once this one is made.
    :param workers: how many threads copy shards.
    :returns: the name of the backup.
    :raises StoreNotFoundError: there is no such store.
    :raises StoreFullError: no space. There is no new backup, and the others are as they were.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen") as seen:
    ...     seen.update("abc")
    >>> name = rack.backup(tmp / "seen", tmp / "backups")
    >>> with rack.PersistentSet(name, flag="r") as seen:
    ...     len(seen)
    3
    """
    if keep is not None:
        keep = whole("keep", keep, 1)  # the backup that is made
    path = file_path(name, "`rack backup STORE DST` makes a whole backup of it")
    if served_by(os.fspath(directory)) is not None:
        raise UnsupportedOperation("backups are made of files: `rack copy` makes a copy on a server")
    place = os.path.abspath(os.fspath(directory))
    check_directory(place)
    manifest = existing(path, 0)
    hold = _read(path, manifest)
    try:
        with Increment(path, manifest, place) as increment:
            held = hold.opened
            snapshot = Hold(OpenSnapshot(held, held.store(held.mode), None))
            try:
                write_increment(snapshot.opened, increment, workers=workers)
            finally:
                registry.release(snapshot)
            if keep is not None:
                increment.forget(keep)
            return increment.target
    finally:
        registry.release(hold)


def write_increment(
    snapshot: Any, increment: Increment, copied: Callable[[Snapshot], object] = Shard.close, workers: int = 1
) -> None:
    """Make a backup of a snapshot that was taken after ``increment`` was made."""
    links = increment.link()
    write_backup(snapshot, increment.target, copied, workers, links, increment.id, increment.tell)


def _read(path: str, manifest: Manifest) -> Hold:
    """Open a store to read, whatever its serdes and hash are."""
    request = Request(manifest.kind, opaque=True)
    with registry.borrowed(path) as own:
        flag = "w" if own is not None and own.mode.flag != "r" else "r"
        return registry.acquire(path, request, Mode(flag, None, None, None))


def restore(
    backup: str | os.PathLike[str], name: str | os.PathLike[str], *, replace: bool = False, timeout: float | None = 0
) -> str | None:
    """Make a store of a backup: the store ``name`` is as it was then.

    O(n). Atomic: the store is there as a whole, or it is as it was before.

    :param backup: the backup, or a directory of backups of one store, of which the last one is taken. Any other store
        will do.
    :param name: the store to make, as for :class:`rack.PersistentSet`. On servers it has as many shards as is best
        there.
    :param replace: whether it may take the place of a store; that is kept, as with :func:`rack.rename`.
    :param timeout: how many seconds to wait for others who have that store open; None: until they have closed it.
    :returns: the name that the store that had the name has now, or None.
    :raises StoreNotFoundError: there is no such backup.
    :raises StoreExistsError: there is a store of that name, and not ``replace``.
    :raises StoreInUseError: others have it open; it says who.
    :raises StoreFullError: no space. Nothing is changed.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen") as seen:
    ...     seen.update("abc")
    >>> _ = rack.backup(tmp / "seen", tmp / "backups")
    >>> rack.remove(tmp / "seen")
    >>> rack.restore(tmp / "backups", tmp / "seen")
    >>> with rack.PersistentSet(tmp / "seen") as seen:
    ...     sorted(seen)
    ['a', 'b', 'c']
    """
    source, target = _chosen(os.fspath(backup)), absolute_path(name)
    if isinstance(target, Address):
        with importing():
            from rack.care.recut import restore as restore_served

        manifest = existing(source, timeout)
        return restore_served(source, Request(manifest.kind, opaque=True), manifest, target, replace)
    if not replace and os.path.lexists(manifest_path(target)):
        raise StoreExistsError(errno.EEXIST, "there is a store of that name", manifest_path(target))
    if not os.path.isdir(os.path.dirname(target)):
        raise path_error(FileNotFoundError(errno.ENOENT, "no such directory"), manifest_path(target))
    hold = _read(source, existing(source, timeout))
    made = files.anonymous_path(target)
    try:
        held = hold.opened
        snapshot = Hold(OpenSnapshot(held, held.store(held.mode), None))
        try:
            write_backup(snapshot.opened, made, Shard.close)  # type: ignore[arg-type]
        finally:
            registry.release(snapshot)
    finally:
        registry.release(hold)
    try:
        return rename(made, target, replace=replace, timeout=timeout)
    except BaseException:
        remove(made, timeout=None)
        raise


def _chosen(backup: str) -> str:
    """Return the path of a backup, for it or a directory of them."""
    is_directory = os.path.isdir(backup)
    if not is_directory or name_problem(backup) is None:
        path = file_path(backup, "a backup is made of files")
        if not is_directory or os.path.lexists(manifest_path(path)):
            return path
    found = backups(os.path.abspath(backup))
    if not found:
        raise StoreNotFoundError(errno.ENOENT, "there are no backups in this directory", backup)
    names = {match[1] for path in found if (match := _NAME.fullmatch(os.path.basename(path)))}
    if len(names) > 1:
        raise StorePathError(
            errno.EINVAL, f"there are backups of several stores ({', '.join(sorted(names))}): name one", backup
        )
    return found[-1]
