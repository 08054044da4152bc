"""``NAME.rack-lock``: held shared by every process that has the store open, exclusively by one that replaces files.

A flock belongs to the open file description, which a fork shares. A child therefore closes its copy, which leaves the
parent's lock alone, and takes a lock of its own; it never unlocks the inherited one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sys
import time

from rack.errors import (
    LockTimeoutError,
    RackError,
    ReadOnlyError,
    StoreFullError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
)


class StoreLock:
    """The lock of the store at ``path``. Not thread-safe: the registry's lock is held around its use."""

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = path + ".rack-lock"
        self._readonly = readonly
        self._fd: int | None = None

    def _open(self) -> int | None:
        if self._fd is None:
            flags = os.O_RDONLY if self._readonly else os.O_RDWR | os.O_CREAT
            try:
                self._fd = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
            except OSError as error:
                if self._readonly:
                    return None  # a store on read-only media has no lock file to hold, and nobody who replaces files
                raise path_error(error, self.path) from error
        return self._fd

    def share(self, timeout: float | None = None) -> None:
        """Hold the lock shared; waits for a process that creates the store or replaces its files."""
        fd = self._open()
        if fd is None:
            return
        flock_within(timeout, fd, fcntl.LOCK_SH, self.path)

    def claim(self) -> bool:
        """Hold the lock exclusively if no other process holds it."""
        return self._attempt(fcntl.LOCK_EX)

    def claim_or_raise(self, purpose: str) -> None:
        """Hold the lock exclusively, or raise StoreInUseError with the processes in the way."""
        deadline = time.monotonic() + 0.15  # others may be just looking whether the store exists
        patience = time.monotonic() + 30  # and one who has it exclusively makes it, or has it on the disk and closes it
        while not self.claim():
            now = time.monotonic()
            if now > patience or (now > deadline and self._attempt(fcntl.LOCK_SH)):
                break
            pause()
        else:
            return
        raise StoreInUseError(
            errno.EBUSY, f"cannot {purpose}: the store is open in {holders(self.path)}; close it there first", self.path
        )

    def alone(self) -> bool:
        """Hold the lock exclusively if nobody has the store open, and return True; else do not hold it.

        Who opens the store waits as long as the lock is held exclusively. A store without a lock file is open nowhere.
        """
        if self._open() is None:
            return not os.path.lexists(self.path)
        if self.claim():
            return True
        self.close()  # the last one to close the store is to find itself alone
        return False

    def _attempt(self, kind: int) -> bool:
        fd = self._open()
        assert fd is not None
        return _attempt(fd, kind)

    def is_current(self) -> bool:
        """Return whether the file at the path is the one that is locked."""
        if self._fd is None:
            return self._readonly
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def close(self) -> None:
        """Release the lock (in a forked child: the child's copy of it)."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def flock_within(timeout: float | None, fd: int, kind: int, path: str) -> None:
    """Take a flock, which is waited for at most ``timeout`` seconds; None: for ever.

    :raises LockTimeoutError: somebody else has it; names the processes.
    """
    if timeout is None:
        fcntl.flock(fd, kind)
        return
    deadline = time.monotonic() + timeout
    while not _attempt(fd, kind):
        if time.monotonic() >= deadline:
            raise lock_timeout(path, timeout)
        time.sleep(0.002)


def lock_timeout(path: str, timeout: float) -> LockTimeoutError:
    """Return the error for a lock on a file that was not free in time; names the processes that have it."""
    who = holders(path)
    error = LockTimeoutError(f"{path} is locked by {who}; waited {timeout} s")
    error.waited_for = f"{who}, which has locked {path}"
    return error


def held_by_others(path: str) -> str | None:
    """Return which other processes hold a flock on a file, and that they do, in words; None: none that is known of."""
    pids = set(lockers(path)) - {os.getpid()}
    return f"{named(sorted(pids))}, which has locked {path}" if pids else None


def _attempt(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pause() -> None:
    """Wait a few milliseconds, not the same time in every process."""
    time.sleep(random.uniform(0.001, 0.005))


def holders(path: str) -> str:
    """Return the other processes that hold a flock on a file, in words. Only Linux tells."""
    return named(sorted(set(lockers(path)) - {os.getpid()}))


def lockers(path: str) -> list[int]:
    """Return the processes that hold a flock on a file. Only Linux tells."""
    pids = []
    if sys.platform == "linux":
        try:
            status = os.stat(path)
            place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            with open("/proc/locks") as table:
                for line in table:
                    fields = line.split()
                    if "FLOCK" in fields and "->" not in fields and fields[-3] == place:
                        pids.append(int(fields[-4]))
        except (OSError, ValueError, IndexError):
            pids = []
    return pids


def named(pids: list[int]) -> str:
    """Return processes in words, with those that are stopped as such."""
    if not pids:
        return "another process"
    return f"process {', '.join(f'{pid} (stopped)' if _is_stopped(pid) else str(pid) for pid in pids)}"


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def path_error(error: OSError, path: str) -> RackError:
    """Return the error for a file of the store that cannot be opened or made, naming what is in the way."""
    directory = os.path.dirname(path)
    if not os.path.exists(directory):
        return StoreNotFoundError(errno.ENOENT, "the directory of the store does not exist; make it first", directory)
    if not os.path.isdir(directory):
        return StorePathError(errno.ENOTDIR, "the store's name has a file in place of a directory", directory)
    if os.path.isdir(path):
        return StorePathError(errno.EISDIR, "a directory is in the place of a file of the store", path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = 'flag="r" opens a store for reading alone'
        return ReadOnlyError(error.errno, f"{error.strerror}; {advice}", path).in_words(str(error.strerror))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(error.errno, error.strerror, path)
    return StorePathError(error.errno, error.strerror, path)
