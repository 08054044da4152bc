"""LMDB's writer lock, looked at from outside: a word in its lock file, in which its owner's thread id is.

It is but a look. Who sees that the lock is free, and begins a transaction, does not wait; unless somebody else takes it
in the instruction between, and is stopped while having it. Where the word is, is not known beforehand, but found in a
transaction of one's own; where it is not found (another C library, macOS) nobody looks.
"""

from __future__ import annotations

import os
import struct
from threading import get_native_id
from typing import Self

_AREA = 256  # bytes; the lock is behind the first line of the lock file's header
_FREE = bytes(4)
_OWNER = (1 << 30) - 1  # the upper bits say whether others wait, and whether the owner died


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
            words = struct.unpack(f"<{_AREA // 4}I", os.pread(fd, _AREA, 0))
        except (OSError, struct.error):
            return None
        places = [4 * number for number, word in enumerate(words) if word & _OWNER == get_native_id()]
        return cls(fd, places[0]) if places else cls(fd, -1)

    def is_free(self) -> bool:
        return self._place >= 0 and os.pread(self._fd, 4, self._place) == _FREE

    def close(self) -> None:
        """Called once LMDB has closed the file, or in a forked child."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
