"""Locks on files (``flock``): waited for with a limit, and who holds them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from io import FileIO
from typing import TypeVar, overload

from rack.errors import LockTimeoutError
from rack.system.imports import importing

Result = TypeVar("Result")


def flock_within(timeout: float | None, fd: int, kind: int, path: str) -> None:
    """Take a flock, which is waited for at most ``timeout`` seconds; None: for ever.

    :raises LockTimeoutError: somebody else has it; names the processes.
    """
    if timeout is None:
        fcntl.flock(fd, kind)
        return
    deadline = time.monotonic() + timeout
    while not attempt(fd, kind):
        if time.monotonic() >= deadline:
            raise lock_timeout(path, timeout)
        time.sleep(0.002)


def lock_timeout(path: str, timeout: float) -> LockTimeoutError:
    """Return the error for a lock on a file that was not free in time; names the processes that have it."""
    who = holders(path)
    error = LockTimeoutError(f"{path} is locked by {who}; waited {timeout} s")
    error.waited_for = f"{who}, which has locked {path}"
    return error


def attempt(fd: int, kind: int) -> bool:
    """Take a flock if that needs no waiting; return whether it was taken."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@overload
def while_open(open: Callable[[], FileIO], body: Callable[[int], Result]) -> Result: ...
@overload
def while_open(open: Callable[[], FileIO | None], body: Callable[[int], Result]) -> Result | None: ...
def while_open(open: Callable[[], FileIO | None], body: Callable[[int], Result]) -> Result | None:
    """Call ``body`` with the descriptor of a file that ``open`` opens, and perhaps locks; return what it returns.

    None if ``open`` says, with None, that there is no file. The file is closed afterwards, whatever instruction an
    exception comes at, and although its traceback lives on.
    """
    opened: list[FileIO | None] = []
    result = None
    try:
        opened.append(open())
        if opened[0] is not None:
            result = body(opened[0].fileno())
            opened[0].close()
        return result
    except BaseException:
        for file in opened:
            if file is not None:
                file.close()
        raise


def pause() -> None:
    """Wait a few milliseconds, not the same time in every process."""
    time.sleep(0.001 + time.perf_counter_ns() % 4_000_000 / 1e9)


def holders(path: str) -> str:
    """Return the other processes that hold a flock on a file, in words. Only Linux tells."""
    return named(_other_lockers(path))


def held_by_others(path: str) -> str | None:
    """Return which other processes hold a flock on a file, and that they do, in words; None: none that is known of."""
    pids = _other_lockers(path)
    return f"{named(pids)}, which has locked {path}" if pids else None


def named(pids: list[int]) -> str:
    """Return processes in words, those that are stopped as such."""
    if not pids:
        return "another process"
    return f"process {', '.join(f'{pid} (stopped)' if _is_stopped(pid) else str(pid) for pid in pids)}"


def _other_lockers(path: str) -> list[int]:
    with importing():
        from rack.system.locktable import LockTable

    table = LockTable.read()
    return sorted(table.flocks(path).keys() - {os.getpid()}) if table is not None else []


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
