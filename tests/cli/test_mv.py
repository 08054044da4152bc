"""``rack mv``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import content, filled, run

pytestmark = pytest.mark.usefixtures("engine")


def test_it_renames_a_store(tmp_path: Path) -> None:
    assert run("mv", filled(tmp_path / "a"), tmp_path / "b") == (0, "", "")
    assert content(tmp_path / "b") == set(range(1000))
    assert not (tmp_path / "a.rack").exists()
    code, _, errors = run("mv", tmp_path / "a", tmp_path / "c")
    assert (code, errors) == (1, f"rack mv: {tmp_path}/a.rack: there is no such store\n")


def test_it_replaces_a_store_if_it_is_told_to(tmp_path: Path) -> None:
    filled(tmp_path / "a", 10), filled(tmp_path / "b", 20)
    code, _, errors = run("mv", "a", "b", cwd=tmp_path)
    assert (code, errors) == (1, "rack mv: b.rack: there is a store of that name\n")
    assert run("mv", "--replace", "a", "b", cwd=tmp_path) == (0, "", "rack mv: the store that was b is b-old now\n")
    assert (len(content(tmp_path / "b")), len(content(tmp_path / "b-old"))) == (10, 20)
