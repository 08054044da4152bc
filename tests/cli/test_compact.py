"""``rack compact``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rack import PersistentSet
from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import content, filled, run

pytestmark = pytest.mark.usefixtures("engine")


def test_it_tells_the_size_before_and_after(tmp_path: Path) -> None:
    path = filled(tmp_path / "a", 20_000)
    with PersistentSet[int](path) as store:
        store.difference_update(range(10, 20_000))
    code, output, errors = run("compact", path)
    assert (code, errors) == (0, "")
    assert output.startswith("10 entries: ")
    assert output.endswith(" % less\n")
    assert content(path) == set(range(10))
    code, output, errors = run("compact", path, "--json")
    found = json.loads(output)
    assert (found["name"], found["entries"]) == (str(path), 10)
    assert found["after"] <= found["before"]
    assert run("compact", path, "-q") == (0, "", "")


def test_it_waits_for_others_if_it_is_told_to(tmp_path: Path) -> None:
    with PersistentSet[int](filled(tmp_path / "a")):
        assert run("compact", tmp_path / "a")[0] == 1
        code, _, errors = run("compact", tmp_path / "a", "--wait", "--timeout", "1")
    assert code == 1
    assert errors.splitlines()[0].startswith("rack compact: waiting: ")
    assert "cannot compact it: the store is open in process " in errors
