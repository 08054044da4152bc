"""The mutexes of an LMDB environment, looked at from outside: LMDB's writer lock, and the lock of its table of readers.

LMDB does not tell who has them, and cannot be interrupted while it waits. But its mutexes are in its lock file, which
all its users map, and glibc puts the thread that has one into it. It is only a look, and what is seen may change at
once: nothing that is promised depends on it.

:class:`Mutex` is asked before each write with a time limit, so it reads one word of the file. It finds that word from
inside a write transaction; where it is not found (another C library, macOS), nobody looks. :func:`owner` is for
messages.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from threading import get_native_id
from typing import Self

# The header of LMDB's lock file: up to here the mutexes are, behind it the readers. (lmdb's mdb.c, MDB_txninfo)
_HEADER = struct.Struct("<32I")
# glibc's pthread_mutex_t: lock, count, owner, users, kind. The lock's word is the owner and two flags.
_OWNER, _KIND = 2, 4
_ROBUST_SHARED = 0x90
_THREAD = 0x3FFFFFFF  # the upper bits say whether others wait, and whether the owner died

_FREE = bytes(4)


class Mutex:
    """Whoever has LMDB's lock file open must not close it before LMDB does: that would drop LMDB's own locks on it.

    So the descriptor is a number, which nothing closes by itself.
    """

    def __init__(self, fd: int, place: int) -> None:
        self._fd = fd
        self._place = place

    @classmethod
    def seen(cls, path: str) -> Self | None:
        """Find the word, from inside a write transaction of this thread; None if it cannot be found."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            words = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        except (OSError, struct.error):
            return None
        places = [4 * number for number, word in enumerate(words) if word & _THREAD == get_native_id()]
        return cls(fd, places[0]) if places else cls(fd, -1)

    def is_free(self) -> bool:
        return self._place >= 0 and os.pread(self._fd, 4, self._place) == _FREE

    def close(self) -> None:
        """Called once LMDB has closed the file, or in a forked child."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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
