"""The header of an SQLite database (sqlite.org/fileformat), looked at before SQLite opens it."""

from __future__ import annotations

import os

from rack.shard.problem import Problem, corrupt


def check_header(path: str) -> None:
    problem = header_problem(path)
    if problem is not None:
        raise corrupt(path, problem.message)


def header_problem(path: str) -> Problem | None:
    """Return what is wrong unless this is an SQLite database as long as its header says (sqlite.org/fileformat)."""
    with open(path, "rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 100:
        return Problem("structure", f"is truncated: {size} bytes are too few for a shard")
    if not header.startswith(b"SQLite format 3\0"):
        return Problem("foreign", "is not a Rack shard (it is no SQLite database)")
    page = int.from_bytes(header[16:18], "big")
    needed = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    # A checkpoint that was killed, or found no space, may have written the header before the rest, which is in the log.
    if size < needed and not size_of(path + "-wal"):
        return Problem("structure", f"is truncated: it has {size} bytes and needs {needed}")
    return None


def size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
