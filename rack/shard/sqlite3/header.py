"""An SQLite database as a file, looked at before SQLite opens it: its header (sqlite.org/fileformat), its size."""

from __future__ import annotations

import contextlib
import os
import time

from rack.shard.problem import Problem, corrupt

_FIRST = 4 * 4096  # bytes
_SETTLED = 100_000_000  # nanoseconds: file systems note when a file was changed to a few milliseconds


def check_header(path: str) -> None:
    problem = header_problem(path)
    if problem is not None:
        raise corrupt(path, problem.message)


def header_problem(path: str) -> Problem | None:
    """Return what is wrong unless this is an SQLite database as long as its header says (sqlite.org/fileformat)."""
    seen: object = None
    while True:
        with open(path, "rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
        if len(header) < 100:
            return Problem("structure", f"is truncated: {size} bytes are too few for a shard")
        if not header.startswith(b"SQLite format 3\0"):
            return Problem("foreign", "is not a Rack shard (it is no SQLite database)")
        page = int.from_bytes(header[16:18], "big")
        needed = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
        # A checkpoint that was killed, or found no space, may have written the header before the rest, which is in the
        # log. One that goes on just now may end, and empty the log, between two looks: so both are looked at twice.
        if size >= needed or size_of(path + "-wal"):
            return None
        if seen == (header, size):
            return Problem("structure", f"is truncated: it has {size} bytes and needs {needed}")
        seen = (header, size)


def holds(path: str, data: bytes) -> bool:
    """Return whether the first pages of a database have these bytes: those of the tables that it was made with."""
    with open(path, "rb") as file:
        return data in file.read(_FIRST)


def change_counter(path: str) -> int:
    """Return the number that each process that has written to a database raises; not to be called while it is open.

    A descriptor of a database must not be closed in a process that has it open: that would drop SQLite's locks.
    """
    with open(path, "rb") as file:
        return int.from_bytes(file.read(28)[24:], "big")


def files_state(path: str) -> object:
    """Return what changes when the database is written to, or opened for that."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, os.path.exists(path + "-wal")


def log_state(path: str) -> object:
    """Return what changes with every commit to a log; None: it may not, as there was one just now."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    if time.time_ns() - status.st_mtime_ns < _SETTLED:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def files_mark(path: str) -> str | None:
    """Return what changes with every commit; None: it may not, as there was one just now.

    No descriptor of the database or of the log's index is opened: closing it would drop SQLite's locks. The log has
    none. Each time that it is begun anew its header has other salts.
    """
    parts: list[object] = []
    for file in (path, path + "-wal"):
        try:
            status = os.stat(file)
        except FileNotFoundError:
            continue
        if not status.st_size:  # a log in which there is nothing: it is made by who opens the database
            continue
        if time.time_ns() - status.st_mtime_ns < _SETTLED:
            return None
        parts += [status.st_ino, status.st_size, status.st_mtime_ns]
    with contextlib.suppress(FileNotFoundError), open(path + "-wal", "rb") as log:
        parts.append(log.read(32).hex())  # of none or an empty one: nothing
    return " ".join(map(str, filter(None, parts)))


def size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
