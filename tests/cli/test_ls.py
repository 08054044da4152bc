"""``rack ls``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import filled, run

pytestmark = pytest.mark.usefixtures("engine")


def test_it_lists_stores(tmp_path: Path, engine: str) -> None:
    filled(tmp_path / "a"), filled(tmp_path / "longer", shards=1)
    (tmp_path / "broken.rack").write_text("{")
    code, output, errors = run("ls", cwd=tmp_path)
    assert (code, errors) == (0, "")
    a, broken, longer = output.splitlines()
    assert a.split()[:6] == ["a", "set", engine, "2", "shards", "marshal"]
    assert longer.split()[:5] == ["longer", "set", engine, "1", "shard"]
    assert broken.startswith("broken  ?")
    objects = [json.loads(line) for line in run("ls", tmp_path, "--json").output.splitlines()]
    assert [found["name"] for found in objects] == [f"{tmp_path}/{name}" for name in ("a", "broken", "longer")]
    assert objects[0]["bytes"] > 1000
    assert "problem" in objects[1]
    (tmp_path / "broken.rack").unlink()


def test_an_empty_directory_has_none_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert run("ls", tmp_path) == (0, "", "")
    code, _, errors = run("ls", tmp_path / "no")
    assert code == 2
    assert "does not exist" in errors
