"""A measurement in a new process: its memory is its own, may be limited, and is watched."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

PATIENCE = 3600  # seconds


def alone(function: Callable[..., Any], *args: Any, limit: int | None = None) -> tuple[Any, int]:
    """Return what the function does in a new process, and the most private memory, in bytes, of it and its children.

    :param limit: bytes of memory, page cache included, that the process may use: see :func:`can_limit`.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, limit, function, args))  # no daemon: that has no children
    process.start()
    sender.close()
    peak = 0
    deadline = monotonic() + PATIENCE
    try:
        while not receiver.poll(0.02) and monotonic() < deadline:
            peak = max(peak, _private(process.pid or 0))
        answer = receiver.recv() if receiver.poll() else RuntimeError("no answer")
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
    return answer, peak


def _work(sender: Connection, limit: int | None, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        if limit is not None:
            _enter(_group(os.getpid()), limit)
        answer = function(*args)
    except Exception as error:
        answer = error
    sender.send(answer)


def _private(pid: int) -> int:
    """Bytes of memory of a process and its children that no file stands behind; 0 where that is not told."""
    total = 0
    for each in (pid, *_children(pid)):
        with suppress(OSError, StopIteration), open(f"/proc/{each}/status") as status:
            total += next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10
    return total


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [int(child) for child in children.read().split()]
    except OSError:
        return []


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
