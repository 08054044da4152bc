"""The locks that processes hold on files, as the system tells: Linux does, in ``/proc/locks``."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from typing import NamedTuple, Self


class HeldLock(NamedTuple):
    """A lock that a process holds on a file, or on bytes of it from ``start`` to ``end``, both of which count."""

    kind: str  # "FLOCK", "POSIX" ...
    exclusive: bool
    pid: int
    start: int
    end: int


class LockTable:
    """All locks on files, of one moment. Processes of other namespaces are not seen."""

    def __init__(self) -> None:
        self._by_file: defaultdict[str, list[HeldLock]] = defaultdict(list)

    @classmethod
    def read(cls) -> Self | None:
        """Return the table; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        table = cls()
        try:
            with open("/proc/locks") as lines:
                for line in lines:
                    fields = line.split()
                    if "->" in fields:  # one that is waited for
                        continue
                    kind, _, mode, pid, place, start, end = fields[-7:]
                    last = sys.maxsize if end == "EOF" else int(end)
                    table._by_file[place].append(HeldLock(kind, mode == "WRITE", int(pid), int(start), last))
        except (OSError, ValueError):
            return None
        return table

    def of(self, path: str) -> list[HeldLock]:
        """Return the locks on a file; none if it is not there."""
        try:
            status = os.stat(path)
        except OSError:
            return []
        device = status.st_dev
        return self._by_file.get(f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}", [])

    def flocks(self, path: str) -> dict[int, bool]:
        """Return the processes that hold a flock on a file, and whether it is exclusive."""
        return {lock.pid: lock.exclusive for lock in self.of(path) if lock.kind == "FLOCK"}
