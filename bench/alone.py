"""A measurement in a new process: its memory is its own, may be limited, and is watched."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 3600  # seconds


def alone(function: Callable[..., Any], *args: Any, limit: int | None = None) -> tuple[Any, int]:
    """Return what the function does in a new process, and the most private memory that it had, in bytes.

    :param limit: bytes of memory, page cache included, that the process may use: see :func:`can_limit`.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, limit, function, args), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(PATIENCE) else RuntimeError("no answer")
    except EOFError:
        process.join(10)
        answer = RuntimeError(f"the process ended with {process.exitcode}")
    if process.is_alive():
        process.join(10)
        process.kill()
    process.join()
    if limit is not None:
        with suppress(OSError):
            _group(process.pid or 0).rmdir()
    if isinstance(answer, Exception):
        raise answer
    result, peak = answer
    return result, peak


def _work(sender: Connection, limit: int | None, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        if limit is not None:
            _enter(_group(os.getpid()), limit)
        with _watched() as peak:
            result = function(*args)
        answer: Any = (result, peak[0])
    except Exception as error:
        answer = error
    sender.send(answer)


@contextmanager
def _watched() -> Iterator[list[int]]:
    peak = [_private()]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _private())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def _private() -> int:
    """Bytes of memory that no file stands behind; 0 where that is not told."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10
    except (OSError, StopIteration):
        return 0


# Memory cgroups (Linux, as root): version 1 has a hierarchy for memory alone, version 2 one for everything.


def can_limit() -> bool:
    """Whether a memory cgroup can be made here."""
    try:
        group = _group(os.getpid())
        group.mkdir()
        try:
            return any((group / file).exists() for file in ("memory.limit_in_bytes", "memory.max"))
        finally:
            group.rmdir()
    except (OSError, StopIteration):
        return False


def _group(pid: int) -> Path:
    """The group for the process: one below our own."""
    with open("/proc/self/cgroup") as groups:
        entries = [line.rstrip("\n").split(":", 2) for line in groups]
    mount = Path("/sys/fs/cgroup")
    own = next((mount / "memory" / path.lstrip("/") for _, kind, path in entries if kind == "memory"), None)
    if own is None:
        own = next(mount / path.lstrip("/") for _, kind, path in entries if not kind)
    if own.name.startswith("rack-bench-"):  # we are in it already
        own = own.parent
    return own / f"rack-bench-{pid}"


def _enter(group: Path, limit: int) -> None:
    group.mkdir()
    old = group / "memory.limit_in_bytes"
    if old.exists():
        old.write_text(str(limit))
    else:
        (group / "memory.max").write_text(str(limit))
        with suppress(OSError):
            (group / "memory.swap.max").write_text("0")
    (group / "cgroup.procs").write_text(str(os.getpid()))
