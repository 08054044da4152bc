"""``rack verify`` on the command line: what it prints, and its exit code."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rack import CorruptShardError, PersistentDict, PersistentSet
from rack.cli import main
from rack.shard.problem import KINDS
from rack.store.record import Record
from tests.support.commands import ENVIRONMENT, RACK
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


# In use when the system stopped


@pytest.fixture
def unclean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 16 shards, all of which were being written to when the system stopped."""
    with PersistentSet[bytes](tmp_path / "s", serdes="bytes", engine="lmdb") as store:
        store.update(b"%d" % number for number in range(1000))
    Record("another boot", "process").write(str(tmp_path / "s"), [1] * 16)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s"


ADVICE = "Normally only what was written in the last half minute is lost: `rack repair s` makes a new store of the rest"


@pytest.mark.damages
def test_a_store_that_was_in_use_when_the_system_stopped_is_told_of_in_a_few_lines(
    unclean: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "s"]) == 1
    first, second = capfd.readouterr().out.splitlines()
    assert first == "s, shards 0-15: was being written to: parts of it may be older than others"
    assert second == f"s was in use when the system stopped. {ADVICE}"
    assert main(["verify", "s", "--json"]) == 1
    report = json.loads(capfd.readouterr().out)
    assert [finding["shard"] for finding in report["findings"]] == [*range(16)]
    assert {finding["kind"] for finding in report["findings"]} == {"power"}
    assert {finding["message"] for finding in report["findings"]} == {
        "was being written to: parts of it may be older than others"
    }


@pytest.mark.damages
@pytest.mark.parametrize(
    "command", [["scan", "s"], ["dedup", "s", os.devnull], ["copy", "s", "t"], ["backup", "s", "t"]]
)
def test_other_commands_say_what_happened_what_is_lost_and_what_to_do(
    command: list[str], unclean: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    happened = "s was in use when the system stopped, and s-0000.lmdb was being written to"
    assert capfd.readouterr().err == (
        f"rack {command[0]}: {happened}: parts of it may be older than others. {ADVICE}\n"
    )


@pytest.mark.damages
def test_python_says_it_too_and_the_command_that_it_names_brings_the_store_back(
    unclean: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CorruptShardError) as caught:
        PersistentSet("s").open()
    happened, lost = str(caught.value).split(". ")  # two sentences
    assert happened.startswith(f"{unclean} was in use when the system stopped, and {unclean}-0000.lmdb was being")
    assert lost == ADVICE.replace("`rack repair s`", f"`rack repair {unclean}`")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
    command = lost.split("`")[1].split()
    assert main(command[1:]) == 1
    with PersistentSet[bytes]("s-repaired", serdes="bytes") as store:
        assert len(store) == 1000
    capfd.readouterr()


@pytest.mark.damages
def test_what_is_damaged_in_some_shards_alike_is_one_line(path: Path) -> None:
    with PersistentDict[str, int](path.with_name("many"), shards=8) as store:
        store.update({str(number): number for number in range(100)})
    many = path.with_name("many")
    for number in (0, 1, 2, 5, 7):
        shard(many, number).unlink()
    shard(many, 4).write_bytes(b"")
    code, output, errors = run("verify", many)
    assert (code, errors) == (1, "")
    lines = output.splitlines()
    assert lines[0] == f"{many}, shards 0-2, 5, 7: is missing"
    assert lines[1].startswith(f"{shard(many, 4)} ")
    assert lines[-1] == f"{many} is damaged: `rack repair {many}` saves what can be read"
    assert len(lines) == 3
