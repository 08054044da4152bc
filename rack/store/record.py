"""``NAME.rack-boot``: what is known of a store's files on the disk. Written in the gate (:mod:`rack.store.gate`) alone.

With durability "process" or "everysec" a commit is in the memory that the system keeps of a file, and reaches the disk
some time later. If the system stops before that, the file is of no moment that ever was. So before a store is written
to, it is put down, on the disk, under which boot of the system that is (:mod:`rack.store.writing`). When nobody writes
any more, and all of it is on the disk, the store is put down as clean. A store that was written to under another boot
than this one's is recovered before anybody reads it (:mod:`rack.store.admission`).

The file is a block of JSON padded to 128 bytes, so that it changes as a whole. Behind it are the shards' stamps of when
the store was clean last, 8 bytes each: while the system runs, a shard that still has its stamp was not written to.

The block has the file's own inode. If that is another one, the files are a copy. One of a store that was in use is not
served: its files are of different moments. One of a clean store is, if its shards are those of the stamps.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from rack.shard import shard_class
from rack.store.manifest import Manifest, manifest_path, record_path, shard_path
from rack.system import boot
from rack.system.disk import path_error, sync_file
from rack.system.imports import importing
from rack.system.place import open_beside

#: What a power failure may cost, the least first.
DURABILITIES = ("process", "everysec", "always")
DEFAULT_DURABILITY = "everysec"
_BLOCK = 128
_BOOT, _DURABILITY, _OPENED = 36, 8, 8  # characters
_UNKNOWN = "unknown"  # of a record that is missing or damaged


class Record(NamedTuple):
    """``boot``: that under which the store was written to, "" if it is clean since; ``durability``: with which.

    ``stamps``: of the shards, when the store was clean last. ``opened``: as :func:`now`, while
    it is open for writing, or when its last user was killed; this is for who copies the files, and need not be on the
    disk. ``is_copy``: the record was written for
    other files than these.
    """

    boot: str
    durability: str
    stamps: tuple[int, ...] = ()
    opened: str = ""
    is_copy: bool = False

    @classmethod
    def read(cls, path: str) -> Record:
        with importing():
            import json

        try:
            with open(record_path(path), "rb") as file:
                data = file.read()
                inode = os.fstat(file.fileno()).st_ino
            content = json.loads(data[:_BLOCK])
            count = max(0, len(data) - _BLOCK) // 8
            stamps = struct.unpack_from(f"<{count}Q", data, _BLOCK)
            boot_then, durability, opened = (content[name].rstrip() for name in ("boot", "durability", "open"))
            record = cls(boot_then, durability, stamps, opened, content["inode"] != inode)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            return cls(_UNKNOWN, DEFAULT_DURABILITY)
        return record if record.durability in DURABILITIES else cls(_UNKNOWN, DEFAULT_DURABILITY)

    @property
    def is_known(self) -> bool:
        return self.boot != _UNKNOWN

    def is_of_this_boot(self) -> bool:
        """Return whether the store was written to since the system booted, and is not known to be on the disk."""
        return self.boot == boot.boot_id()

    def is_open_now(self) -> bool:
        """Return whether the store is open for writing, or was when a process was killed since the system booted."""
        return self.opened == now()

    def is_of_earlier_boot(self) -> bool:
        """Return whether the store is known to have been in use when the system stopped."""
        return self.boot not in ("", _UNKNOWN, boot.boot_id())

    def write(self, path: str, sync: bool = False) -> None:
        """Write the record; ``sync``: and have it on the disk. If a clean one is late there, that costs no more than a
        recovery without need.

        :raises RackError: it cannot be written.
        """
        with importing():
            import json

        name = record_path(path)
        try:
            with open_beside(name, "r+", manifest_path(path)) as file:
                # Each field has its place: half of one record and half of the next say that it is in use.
                content = {
                    "open": self.opened.ljust(_OPENED),
                    "boot": self.boot.ljust(_BOOT),
                    "durability": self.durability.ljust(_DURABILITY),
                    "inode": os.fstat(file.fileno()).st_ino,
                }
                block = json.dumps(content).encode().ljust(_BLOCK)
                os.pwrite(file.fileno(), block + struct.pack(f"<{len(self.stamps)}Q", *self.stamps), 0)
                if sync:
                    sync_file(file.fileno())
        except OSError as error:
            raise path_error(error, name) from error


def now() -> str:
    """Return what tells this boot from others, in few characters: a record has little room."""
    return boot.boot_id()[:_OPENED]


def present_stamps(path: str, manifest: Manifest) -> tuple[int, ...]:
    """Return the stamps that the shards have now."""
    cls = shard_class(manifest.engine)
    return tuple(cls.stamp(shard_path(path, number, cls.suffix)) for number in range(manifest.shards))


def copy_problem(path: str, manifest: Manifest, record: Record) -> str | None:
    """Return what is wrong if the files are a copy that was made while others wrote; goes on from the store's name."""
    if not record.is_copy or (not (record.boot or record.opened) and _has_stamps(path, manifest, record)):
        return None
    with importing():
        from shlex import quote

    return (
        "is of a copy that was made while the store was in use, or after a process that used it was killed: its files"
        " may be of different moments, and nothing in them tells what is missing. Make the copy with `rack backup"
        " ORIGINAL COPY`, which needs no pause, or copy the files of a store that was closed; `rack repair"
        f" {quote(path)}` saves what can be read of this one"
    )


def _has_stamps(path: str, manifest: Manifest, record: Record) -> bool:
    """Return whether the shards are as they were when the record was written."""
    cls = shard_class(manifest.engine)
    if len(record.stamps) != manifest.shards:
        return False
    for number, stamp in enumerate(record.stamps):
        try:
            if cls.stamp(shard_path(path, number, cls.suffix)) != stamp:
                return False
        except (OSError, struct.error):
            continue  # it is missing, or is no shard: opening it tells
    return True
