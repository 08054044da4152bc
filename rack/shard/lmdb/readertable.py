"""LMDB's table of readers, looked at from outside: in its lock file, which all its users map (MDB_txninfo in mdb.c).

It has a slot of 64 bytes for each thread that reads or has read: the transaction that it reads, and its process. A
process that has slots has a lock on the byte of its own number.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import NamedTuple

_MAGIC = 0xBEEFC0DE
_FORMAT = 0x10001
_CACHE_LINE = 64
_MUTEX = {"aarch64": 48}  # bytes of glibc's pthread_mutex_t; 40 elsewhere
_HEAD = struct.Struct("=Qi")
_NO_TRANSACTION = (1 << 64) - 1
_FLOCK = struct.Struct("@hhqqi4x")  # Linux, 64 bits: type, whence, start, length, process


class Slot(NamedTuple):
    """A slot that is in use."""

    pid: int
    txn: int | None  # None: it reads nothing just now
    is_alive: bool


def readers(fd: int) -> list[Slot] | None:
    """Return the slots of the lock file of that descriptor; None where the table is not understood."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    mutex = _MUTEX.get(os.uname().machine, 40)
    count_at = 8 + mutex + 8
    table_at = _lines(count_at + 4) + _lines(mutex)
    header = os.pread(fd, table_at, 0)
    if len(header) < table_at or struct.unpack_from("=II", header) != (_MAGIC, _FORMAT):
        return None
    count = int.from_bytes(header[count_at : count_at + 4], sys.byteorder)
    table = os.pread(fd, count * _CACHE_LINE, table_at)
    heads = [_HEAD.unpack_from(table, at) for at in range(0, len(table) - _HEAD.size, _CACHE_LINE)]
    alive = {pid: _is_alive(fd, pid) for pid in {pid for _, pid in heads} if pid}
    return [Slot(pid, None if txn == _NO_TRANSACTION else txn, alive[pid]) for txn, pid in heads if pid]


def _is_alive(fd: int, pid: int) -> bool:
    """Return whether a process that has slots in the table is there, in whatever namespace."""
    if pid == os.getpid():
        return True
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, pid, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)


def _lines(size: int) -> int:
    """Return how many bytes the cache lines have that hold so many."""
    return -(-size // _CACHE_LINE) * _CACHE_LINE
