"""``NAME.rack-boot``: under which boot of the system a store is in use, so that a power failure is noticed.

With durability "process" or "everysec" a commit is in the memory that the system keeps of a file, and reaches the disk
some time later. If the system stops before that, the file is of no moment that ever was. Therefore whoever opens a
store for writing puts down first, on the disk, the boot that it is in use under; the last one to close it has all of it
on the disk, and then puts down that it is clean. A store that was in use under another boot than this one's is
recovered before anybody reads it: rebuilt from its journals, or refused if it may be damaged.

All this happens inside :func:`gate`, a flock on the manifest, which comes before the store's lock and which nobody
holds for longer than an opening takes. The last one to close holds the store's lock exclusively instead.

The file is a block of JSON padded to 128 bytes, so that it changes as a whole; behind it are the shards' stamps of when
they were on the disk last (8 bytes each): a shard that still has it was not written to since.

The block has the file's own inode. If that is another one, the files are a copy. One of a store that was in use is not
served: its files are of different moments. One of a clean store is, if its shards are those of the record's stamps.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from typing import NamedTuple

from rack.errors import CorruptShardError, MismatchError, RackError
from rack.shard import shard_class
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, Request, manifest_path, record_path, shard_path
from rack.system.boot import boot_id
from rack.system.disk import path_error, sync_file, sync_paths
from rack.system.flock import attempt, holders, lock_timeout, pause
from rack.system.imports import importing
from rack.system.place import open_beside

DURABILITIES = ("process", "everysec", "always")
_BLOCK = 128
_UNKNOWN = "unknown"  # of a record that is missing or damaged


class Record(NamedTuple):
    """``boot``: that under which the store is in use, "" if it is clean; ``durability``: the least it is used with.

    ``is_copy``: it was written for other files than these.
    """

    boot: str
    durability: str
    is_copy: bool = False

    @classmethod
    def read(cls, path: str) -> Record:
        with importing():
            import json

        try:
            with open(record_path(path), "rb") as file:
                content = json.loads(file.read(_BLOCK))
                is_copy = content["inode"] != os.fstat(file.fileno()).st_ino
            record = cls(content["boot"], content["durability"], is_copy)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(_UNKNOWN, "process")
        return record if record.durability in DURABILITIES else cls(_UNKNOWN, "process")

    def is_of_earlier_boot(self) -> bool:
        """Return whether the store is known to have been in use when the system stopped."""
        return self.boot not in ("", _UNKNOWN, boot_id())

    def write(self, path: str, stamps: Iterable[int] = ()) -> None:
        """Write the record, and have it on the disk unless it says that the store is clean: that may be late."""
        with importing():
            import json

        with open_beside(record_path(path), "r+", manifest_path(path)) as file:
            content = {"boot": self.boot, "durability": self.durability, "inode": os.fstat(file.fileno()).st_ino}
            block = json.dumps(content).encode().ljust(_BLOCK)
            os.pwrite(file.fileno(), block + b"".join(stamp.to_bytes(8, "little") for stamp in stamps), 0)
            if self.boot:
                sync_file(file.fileno())


def read_stamps(path: str, count: int) -> list[int]:
    """Return the stamps of when the shards were on the disk last; -1 where that is not known."""
    try:
        with open(record_path(path), "rb") as file:
            file.seek(_BLOCK)
            return list(struct.unpack(f"<{count}Q", file.read(8 * count)))
    except (OSError, struct.error):
        return [-1] * count


def present_stamps(path: str, manifest: Manifest) -> list[int]:
    cls = shard_class(manifest.engine)
    return [cls.stamp(shard_path(path, number, cls.suffix)) for number in range(manifest.shards)]


def synced(path: str, manifest: Manifest, stamps: list[int]) -> None:
    """Put down that what the shards had at ``stamps`` is on the disk, while the store is in use."""
    record = Record.read(path)
    if record.boot == boot_id():
        with suppress(OSError):  # no space to say so
            record.write(path, stamps)


def gate(path: str, timeout: float | None) -> FileIO | None:
    """Go into the gate of the store, one opener at a time; return the manifest's file: who closes it has left the gate.

    None: there is no manifest.
    """
    name = manifest_path(path)
    opened = []  # no variable refers to it: an exception's traceback would keep it open
    try:
        try:
            opened.append(FileIO(name))
        except FileNotFoundError:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        while not attempt(opened[0].fileno(), fcntl.LOCK_EX):
            if timeout is None or deadline is None:
                fcntl.flock(opened[0], fcntl.LOCK_EX)
            elif time.monotonic() > deadline:
                raise lock_timeout(name, timeout)
            else:
                pause()
        return opened.pop()
    except BaseException as error:
        for file in opened:
            file.close()
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, name) from error
        raise


def admit(path: str, manifest: Manifest, request: Request, asked: str | None, readonly: bool, lock: StoreLock) -> str:
    """Let an opener of the store in, who is inside the gate and shares the lock; return the durability it has.

    After a power failure the store is recovered first: O(n).

    :raises CorruptShardError: the power failure may have damaged a shard, or the files are a copy of a store in use.
    :raises MismatchError: other processes have the store open with another durability.
    """
    cls = shard_class(manifest.engine)
    specs = [manifest.spec(path, number, request, "process", readonly) for number in range(manifest.shards)]
    record = Record.read(path)
    here = boot_id()
    if (problem := copy_problem(path, manifest, record)) is not None:
        raise CorruptShardError(f"{manifest_path(path)} {problem}")
    stamps: list[int] = []
    if record.boot not in ("", here):
        for spec, stamp in zip(specs, read_stamps(path, manifest.shards), strict=True):
            cls.recover(spec, record.durability, stamp if record.boot != _UNKNOWN else None)
        stamps = present_stamps(path, manifest)
    if readonly:
        return record.durability
    durability = asked or ("everysec" if record.durability == "everysec" else "process")
    least = durability
    if "everysec" in (durability, record.durability):
        if durability != record.durability:
            if record.boot == here and not _is_alone(lock):
                who = f"{holders(lock.path)} has {manifest_path(path)} open with"
                raise MismatchError(
                    f"durability={durability!r} was given, but {who} {record.durability!r}: close it there first"
                ).in_words(
                    f"{who} the durability {record.durability}, and not {durability}: while it is so, others can only"
                    " have the same"
                )
            if record.durability == "everysec":  # what is journalled is needed until the record says that it is not
                sync_paths([file for spec in specs for file in cls.unsynced_files(spec.path)])
                _put_down(path, Record(here, durability), present_stamps(path, manifest))
            for spec in specs:
                cls.change_durability(spec, durability)
            stamps = present_stamps(path, manifest)
    elif record.boot == here:
        least = min(durability, record.durability, key=DURABILITIES.index)
    if stamps or record != Record(here, least):
        _put_down(path, Record(here, least), stamps)
    return durability


def copy_problem(path: str, manifest: Manifest, record: Record) -> str | None:
    """Return what is wrong if the files are a copy that was made while others wrote; goes on from the store's name."""
    if not record.is_copy or (not record.boot and _has_stamps(path, manifest)):
        return None
    with importing():
        from shlex import quote

    return (
        "is of a copy that was made while the store was in use, or after a process that used it was killed: its files"
        " may be of different moments, and nothing in them tells what is missing. Make the copy with `rack backup"
        " ORIGINAL COPY`, which needs no pause, or copy the files of a store that was closed; `rack repair"
        f" {quote(path)}` saves what can be read of this one"
    )


def _has_stamps(path: str, manifest: Manifest) -> bool:
    """Return whether the shards are as they were when the record was written."""
    cls = shard_class(manifest.engine)
    for number, stamp in enumerate(read_stamps(path, manifest.shards)):
        try:
            if cls.stamp(shard_path(path, number, cls.suffix)) != stamp:
                return False
        except (OSError, struct.error):
            continue  # it is missing, or is no shard: opening it tells
    return True


def _put_down(path: str, record: Record, stamps: list[int]) -> None:
    try:
        record.write(path, stamps)
    except OSError as error:
        raise path_error(error, record_path(path)) from error


def _is_alone(lock: StoreLock) -> bool:
    """Return whether nobody else has the store open. The lock is shared again afterwards."""
    alone = lock.claim()
    lock.share()
    return alone


def leave(path: str, manifest: Manifest, lock: StoreLock) -> None:
    """Have everything on the disk and record that the store is clean, if nobody else has it open.

    The caller has shared the lock, closed its shards, and lets go of the lock next.
    """
    record = Record.read(path)
    if record.boot != boot_id() or not lock.claim():
        return
    cls = shard_class(manifest.engine)
    stamps = present_stamps(path, manifest)
    known = read_stamps(path, manifest.shards)
    changed = [number for number in range(manifest.shards) if stamps[number] != known[number]]
    sync_paths([file for number in changed for file in cls.unsynced_files(shard_path(path, number, cls.suffix))])
    with suppress(OSError):  # no space to say so: it is recovered without need
        Record("", record.durability).write(path, stamps)
