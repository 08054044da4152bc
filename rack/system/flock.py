"""Locks on files (``flock``): waited for with a limit, and who holds them."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time
from collections.abc import Callable
from io import FileIO
from typing import TypeVar

from rack.errors import LockTimeoutError

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
            raise LockTimeoutError(f"{path} is locked by {holders(path)}; waited {timeout} s")
        time.sleep(0.002)


def attempt(fd: int, kind: int) -> bool:
    """Take a flock if that needs no waiting; return whether it was taken."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def while_open(open: Callable[[], FileIO], body: Callable[[int], Result]) -> Result:
    """Call ``body`` with the descriptor of a file that ``open`` opens, and perhaps locks; return what it returns.

    The file is closed afterwards, whatever instruction an exception comes at, and although its traceback lives on.
    """
    opened: list[FileIO] = []
    try:
        opened.append(open())
        result = body(opened[0].fileno())
        opened[0].close()
        return result
    except BaseException:
        for file in opened:
            file.close()
        raise


def pause() -> None:
    """Wait a few milliseconds, not the same time in every process."""
    time.sleep(random.uniform(0.001, 0.005))


def holders(path: str) -> str:
    """Return the processes that hold a flock on a file, in words. Only Linux tells."""
    pids = []
    if sys.platform == "linux":
        try:
            status = os.stat(path)
            place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            with open("/proc/locks") as table:
                for line in table:
                    fields = line.split()
                    if "FLOCK" in fields and "->" not in fields and fields[-3] == place:
                        pids.append(fields[-4])
        except (OSError, IndexError):
            pids = []
    pids = sorted(set(pids) - {str(os.getpid())}, key=int)
    return f"process {', '.join(pids)}" if pids else "another process"
