"""``rack mv``: gives a store another name, perhaps that of another store."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack
from itertools import count

from rack.care import served
from rack.care.alone import existing, locked, not_found
from rack.errors import RackError, StoreExistsError, StorePathError
from rack.shard.address import Address
from rack.store import files, moving, scratch
from rack.store.manifest import Manifest, absolute_path, is_half_moved, manifest_path, record_path
from rack.store.record import Record
from rack.system.disk import path_error, sync_path
from rack.system.place import take_after_path


def rename(
    name: str | os.PathLike[str], to: str | os.PathLike[str], *, replace: bool = False, timeout: float | None = 0
) -> str | None:
    """Give a store another name, in the same directory or another one, also on another file system.

    With ``replace`` it takes the place of a store that has the name: that is kept, under its name with ``-old`` (or
    ``-old-2`` and so on). So is a repaired store put in the place of the damaged one.

    O(files) on one file system; else O(bytes), and the disk has to have room. Atomic: whenever the process is killed,
    the store has the old name or the new one, as a whole; and the name ``to`` is that of the store that had it, or of
    this one. Between file systems a kill can leave it under both names, as two stores.

    On servers both names are of the same ones. O(1): the shards stay where they are, and who has the store open goes on
    using it. Nobody is waited for.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param to: its new name. The directory must be there.
    :param replace: whether it may be that of another store.
    :param timeout: how many seconds to wait for others who have a store open; None: until they have closed it.
    :returns: the name that the store that had the name has now, or None.
    :raises StoreNotFoundError: there is no such store, or not the directory of ``to``.
    :raises StoreExistsError: there is a store of the new name, and not ``replace``.
    :raises StoreInUseError: others have one of the stores open; it says who. Nothing is changed.
    :raises UnsupportedOperation: one is in files and the other on servers, or they are on different ones.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen") as seen:
    ...     seen.update("abc")
    >>> rack.rename(tmp / "seen", tmp / "seen-2024")
    >>> with rack.PersistentSet(tmp / "seen-2024", flag="r") as seen:
    ...     len(seen)
    3
    """
    source, target = absolute_path(name), absolute_path(to)
    if isinstance(source, Address) or isinstance(target, Address):
        return served.rename(source, target, replace)
    if os.path.realpath(os.path.dirname(source)) == os.path.realpath(os.path.dirname(target)) and (
        os.path.basename(source) == os.path.basename(target)
    ):
        raise StorePathError(errno.EINVAL, "the store has this name already", target)
    existing(source, timeout)
    if not os.path.isdir(os.path.dirname(target)):
        raise path_error(FileNotFoundError(errno.ENOENT, "no such directory"), manifest_path(target))
    aside = None
    with ExitStack() as stack:
        for path in sorted((source, target)):  # in one order: two who wait would wait for each other
            stack.enter_context(locked(path, "rename it", timeout))
        manifest = Manifest.read(source)
        if manifest is None:
            raise not_found(source)
        files.check_makeable(target, manifest)
        scratch.discard(source)
        scratch.discard(target)
        if not os.path.lexists(manifest_path(target)):
            files.clear(target, manifest)
        elif not replace:
            raise StoreExistsError(errno.EEXIST, "there is a store of that name", manifest_path(target))
        else:
            aside = _free(target)
            stack.enter_context(locked(aside, "keep another store there", timeout))
        try:
            with scratch.making(target, manifest) as part:
                if _is_one_file_system(source, target):
                    moving.move(source, target, aside)
                else:
                    _copy_files(source, part, manifest)
                    moving.move(part, target, aside)
                    manifest.take_back(source)
                    files.unlink(manifest.files(source)[::-1])
        except OSError as error:
            raise error if isinstance(error, RackError) else path_error(error, error.filename or target) from error
    return aside


def _free(target: str) -> str:
    """Return a name that no store has, for the one that is replaced."""
    names = (f"{target}-old" if number == 1 else f"{target}-old-{number}" for number in count(1))
    return next(name for name in names if not os.path.lexists(manifest_path(name)) and not is_half_moved(name))


def _is_one_file_system(source: str, target: str) -> bool:
    return os.stat(os.path.dirname(source)).st_dev == os.stat(os.path.dirname(target)).st_dev


def _copy_files(source: str, target: str, manifest: Manifest) -> None:
    """Make the same store, byte by byte."""
    for old, new in zip(manifest.shard_files(source), manifest.shard_files(target), strict=True):
        if os.path.exists(old):
            shutil.copyfile(old, new)
            take_after_path(new, old)
            sync_path(new)
    Record.read(source)._replace(is_copy=False).write(target)
    sync_path(record_path(target))
    manifest.finish(target)
