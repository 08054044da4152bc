"""``rack verify`` on the command line: what it prints, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.shard.problem import KINDS
from tests.cli.test_help import ENVIRONMENT, RACK
from tests.support.processes import assert_sound, default_engine
from tests.support.processes import engine as engine


def run(*args: object) -> tuple[int, str, str]:
    done = subprocess.run([*RACK, *map(str, args)], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    with PersistentDict[str, int](tmp_path / "store", shards=2) as store:
        store.update({str(number): number for number in range(100)})
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return Path(f"{path}-{number:04d}.{default_engine()}")


def test_a_sound_store_is_exit_code_0(path: Path) -> None:
    assert run("verify", path) == (0, f"{path} is sound: 100 entries\n", "")
    assert run("verify", f"{path}.rack", "-q") == (0, "", "")
    assert run("verify", path, "--workers", 2) == (0, f"{path} is sound: 100 entries\n", "")
    code, output, errors = run("verify", path, "--json")
    assert (code, errors) == (0, "")
    assert json.loads(output) == {
        "name": str(path),
        "sound": True,
        "entries": 100,
        "found": 0,
        "findings": [],
        "in_use": [],
        "not_checked": [],
        "unexamined": [],
    }
    assert_sound(PersistentDict(path))


def test_a_damaged_store_is_exit_code_1(path: Path) -> None:
    good = shard(path, 1).read_bytes()
    shard(path, 1).write_bytes(shard(path, 0).read_bytes())
    code, output, errors = run("verify", path)
    assert (code, errors) == (1, "")
    assert f"{shard(path, 1)} is shard 0 of its store" in output
    assert f"`rack repair {path}`" in output
    assert run("verify", path, "-q") == (1, "", "")
    code, output, _ = run("verify", path, "--json")
    report: Any = json.loads(output)
    assert (code, report["sound"]) == (1, False)
    assert report["found"] >= len(report["findings"]) > 0
    for finding in report["findings"]:
        assert finding.keys() == {"shard", "file", "kind", "message"}
        assert finding["kind"] in KINDS
        assert (finding["shard"], finding["file"]) == (1, str(shard(path, 1)))
    shard(path, 1).write_bytes(good)
    assert_sound(PersistentDict(path))


def test_what_cannot_be_verified_is_exit_code_2(path: Path) -> None:
    code, output, errors = run("verify", path.with_name("nothing"))
    assert (code, output) == (2, "")
    assert errors.startswith("rack verify: there is no store ")
    assert errors.count("\n") == 1
    assert run("verify")[0] == 2
    assert run("verify", path, "--unheard-of")[0] == 2
    file = shard(path, 1)
    file.rename(f"{file}.aside")
    os.mkdir(file)  # cannot be read, whoever tries
    code, output, errors = run("verify", path)
    assert (code, errors) == (2, "")
    assert "not examined: " in output


def test_the_kinds_of_findings_are_in_the_help() -> None:
    output = run("verify", "--help")[1]
    for kind in KINDS:
        assert kind in output
