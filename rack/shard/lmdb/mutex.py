"""The mutexes of an LMDB environment, looked at from outside: LMDB's writer lock, and the lock of its table of readers.

LMDB does not tell who has them, and cannot be interrupted while it waits. But its mutexes are in its lock file, which
all its users map, and glibc puts the thread that has one into it. It is only a look, and what is seen may change at
once: nothing that is promised depends on it.

:class:`Mutex` is looked at before each write, so that is one word of a map. It finds that word from inside a write
transaction; where it is not found (another C library, macOS), nobody looks. :func:`owner` is for messages.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import sys
from contextlib import suppress
from threading import get_native_id
from typing import Any

# The header of LMDB's lock file: up to here the mutexes are, behind it the readers. (lmdb's mdb.c, MDB_txninfo)
_HEADER = struct.Struct("<32I")
# glibc's pthread_mutex_t: lock, count, owner, users, kind. The lock's word is the owner and two flags.
_OWNER, _KIND = 2, 4
_ROBUST_SHARED = 0x90
_THREAD = 0x3FFFFFFF  # the upper bits say whether others wait, and whether the owner died

#: Stands for the word of a mutex of which is not known where it is: it always looks free.
UNKNOWN = (0,)
#: How often a word is looked at, 30 ns each, until it is waited for in the kernel. A short transaction is over by then,
#: and who sleeps is woken up 20 us late.
_LOOKS = 500

_place: int | None = None  # where the word is, in all lock files alike; -1: it is not found


class Mutex:
    """The writer lock of an environment. Made before LMDB opens its lock file, and kept until LMDB has closed it.

    Closing any descriptor of that file, a map's too, drops the locks that LMDB has on it.
    """

    def __init__(self, path: str) -> None:
        """:raises ValueError: the file is shorter than its header, as after a power failure."""
        with io.FileIO(path) as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Called where LMDB has closed its lock file, or has not opened it."""
        self._map.close()

    @property
    def is_found(self) -> bool:
        return _place is not None

    def find(self) -> None:
        """Find out where the word is. Called inside a write transaction of this thread."""
        global _place
        words = _HEADER.unpack_from(self._map)
        places = [number for number, word in enumerate(words) if word & _THREAD == get_native_id()]
        _place = places[0] if places else -1

    @property
    def word(self) -> Any:
        """A sequence, the first item of which is not 0 while somebody has the lock."""
        if _place is None or _place < 0:
            return UNKNOWN
        return memoryview(self._map)[4 * _place : 4 * _place + 4].cast("I")


def look(word: Any) -> None:
    """Return when the lock is free, or after a moment."""
    for _ in range(_LOOKS):
        if not word[0]:
            return


def owner(lock_file: str) -> int | None:
    """Return which process has a mutex of the environment, which this process has open; None if that is not known.

    The file must not be opened for this: closing it would take away the locks that this process has on it.
    """
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError):
        address = _mapped_at(lock_file)
        if address is None:
            return None
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            words = _HEADER.unpack(memory.read(_HEADER.size))
        for at in range(len(words) - _KIND):
            thread = words[at + _OWNER]
            if words[at + _KIND] == _ROBUST_SHARED and thread and words[at] & _THREAD == thread:
                return _process_of(thread)
    return None


def _mapped_at(file: str) -> int | None:
    inode, name = str(os.stat(file).st_ino), os.path.basename(file)
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)  # addresses, permissions, offset, device, inode, path
            # Not by the device: what btrfs says here is another one than stat() says.
            if len(fields) == 6 and fields[4] == inode and os.path.basename(fields[5]) == name:
                return int(fields[0].partition("-")[0], 16) - int(fields[2], 16)
    return None


def _process_of(thread: int) -> int | None:
    with open(f"/proc/{thread}/status") as status:
        for line in status:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return None
