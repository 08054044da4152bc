"""A database's file, looked at while another process may be writing to it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rack.shard.sqlite3 import header


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A database whose last page is missing: in the middle of a checkpoint, its header may be written before that."""
    name = str(tmp_path / "d")
    with closing(sqlite3.connect(name)) as database:
        database.execute("create table t (a)")
        database.execute("insert into t values (zeroblob(50000))")
        database.commit()
    os.truncate(name, os.path.getsize(name) - 4096)
    return name


def test_a_checkpoint_that_ends_between_two_looks_is_no_damage(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(log: str) -> int:
        os.truncate(path, os.path.getsize(path) + 4096)
        return 0  # the log is empty now

    monkeypatch.setattr(header, "size_of", ends)
    assert header.header_problem(path) is None


def test_what_stays_too_short_is_truncated(path: str) -> None:
    problem = header.header_problem(path)
    assert problem is not None
    assert "is truncated" in problem.message
    Path(path + "-wal").write_bytes(b"log")
    assert header.header_problem(path) is None
