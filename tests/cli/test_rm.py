"""``rack rm``."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from rack import PersistentSet
from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import content, filled, run

pytestmark = pytest.mark.usefixtures("engine")


def test_it_removes_stores_and_says_so(tmp_path: Path) -> None:
    filled(tmp_path / "a"), filled(tmp_path / "b"), filled(tmp_path / "a-2024")
    assert run("rm", "--yes", tmp_path / "a", tmp_path / "b.rack") == (0, "", "rack rm: 2 stores removed\n")
    assert all(name.startswith("a-2024") for name in os.listdir(tmp_path))
    assert content(tmp_path / "a-2024") == set(range(1000))
    assert run("rm", "-qy", tmp_path / "a-2024") == (0, "", "")
    assert not os.listdir(tmp_path)


def test_where_nobody_can_be_asked_it_wants_to_be_told(tmp_path: Path) -> None:
    code, _, errors = run("rm", filled(tmp_path / "a"))
    assert code == 2
    assert "--yes" in errors
    assert content(tmp_path / "a") == set(range(1000))


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
def test_it_asks_on_a_terminal(answer: bytes, code: int, tmp_path: Path) -> None:
    path = filled(tmp_path / "a")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = run("rm", path, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert f"Remove the set '{path}' of 1,000 entries? [y/N]" in done.errors
    assert done.code == code
    assert (tmp_path / "a.rack").exists() == bool(code)


def test_a_store_that_is_open_is_named_with_who_has_it_open(tmp_path: Path) -> None:
    with PersistentSet[int](filled(tmp_path / "a")):
        code, _, errors = run("rm", "--yes", tmp_path / "a")
    assert code == 1
    assert str(os.getpid()) in errors
    assert errors.count("\n") == 1
    assert content(tmp_path / "a") == set(range(1000))
    assert run("rm", "--yes", tmp_path / "nothing")[:2] == (1, "")
