"""Who has a mutex of an LMDB environment: LMDB's writer lock, or the lock of its table of readers.

LMDB does not tell, and cannot be interrupted while it waits. But its mutexes are in memory that all its users share,
and glibc puts the owner into each. It is only a look: nothing depends on it.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress

# The header of LMDB's lock file: up to here the mutexes are, behind it the readers. (lmdb's mdb.c, MDB_txninfo)
_HEADER = struct.Struct("<32I")
# glibc's pthread_mutex_t: lock, count, owner, users, kind. The lock's word is the owner and two flags.
_OWNER, _KIND = 2, 4
_ROBUST_SHARED = 0x90
_THREAD = 0x3FFFFFFF


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
