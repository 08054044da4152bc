"""``rack copy``: a store with other engine, shards or serdes, also by workers; whole, or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rack import MismatchError, PersistentDict, PersistentSet
from rack.store.manifest import Manifest
from tests.cli.test_ends import ENVIRONMENT, running
from tests.container.test_copy import DATA
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound


def rack(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rack", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


def test_rack_copy_changes_engine_shards_and_serdes(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a") as a:
        a.update({"x": 1, "y": [2]})
    done = rack("copy", "a", "b", "--engine", "sqlite3", "--shards", "2", "--serdes", "json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 entries copied to b" in done.stderr
    with PersistentDict(tmp_path / "b") as b:
        assert dict(b) == {"x": 1, "y": [2]}
        assert b.check() == 2
        assert len(b.shards()) == 2
    again = rack("copy", "a", "b", cwd=tmp_path)
    assert again.returncode == 1
    assert "b.rack" in again.stderr


def test_rack_copy_with_workers_copies_everything_once(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a", shards=4) as a:
        a.update(DATA)
    for number, options in enumerate(([], ["--shards", "3"], ["--serdes", "pickle", "--engine", "sqlite3"])):
        done = rack("copy", "a", f"b{number}", "--workers", "3", *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"{len(DATA):,} entries copied" in done.stderr
        with PersistentDict(tmp_path / f"b{number}") as b:
            assert dict(b) == DATA
        assert_sound(b)
    assert rack("copy", "a", "c", "--workers", "0", cwd=tmp_path).returncode == 2


def _wait_until_it_copies(directory: Path) -> None:
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size > 200_000 for file in directory.glob("*anonymous*.lmdb")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everybody", [False, True], ids=["parent", "group"])
def test_rack_copy_with_workers_ends_by_a_signal_and_leaves_nothing(
    tmp_path: Path, signum: signal.Signals, everybody: bool
) -> None:
    with PersistentDict(tmp_path / "a", shards=4) as a:
        a.update((number, number) for number in range(50_000))
    before = {file.name for file in tmp_path.iterdir()}
    with running("copy", tmp_path / "a", tmp_path / "b", "--workers", 2, "--serdes", "json", "-q") as process:
        _wait_until_it_copies(tmp_path)
        (os.killpg if everybody else os.kill)(process.pid, signum)
        errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors) == (-signum, b"")
    assert {file.name for file in tmp_path.iterdir()} == before
    assert_sound(a)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_rack_copy_goes_on_where_a_signal_is_ignored(tmp_path: Path, signum: signal.Signals) -> None:
    with PersistentDict(tmp_path / "a", shards=4) as a:
        a.update((number, number) for number in range(50_000))
    options: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signum, signal.SIG_IGN)}
    with running("copy", tmp_path / "a", tmp_path / "b", "--workers", 2, "--serdes", "json", **options) as process:
        _wait_until_it_copies(tmp_path)
        os.killpg(process.pid, signum)
        process.communicate(timeout=60)
    assert process.returncode == 0
    with PersistentDict(tmp_path / "b") as b:
        assert b.check() == 50_000
    assert_sound(b)


def test_rack_copy_of_nothing_names_what_was_looked_for(tmp_path: Path) -> None:
    done = rack("copy", "nothing", "b", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing.rack" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_another_shard_count_names_a_command_that_works(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "a", shards=2) as a:
        a.update(range(100))
    with pytest.raises(MismatchError) as caught:
        PersistentSet(tmp_path / "a", shards=4).open()
    command = str(caught.value).split("`")[1].split()
    assert command[:2] == ["rack", "copy"]
    assert rack(*command[1:], cwd=tmp_path).returncode == 0
    with PersistentSet(tmp_path / "NEW", shards=4) as new:
        assert set(new) == set(range(100))
        assert new.check() == 100


# Keys


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("options", [{"key_serdes": "str"}, {"key_serdes": "ordered", "serdes": "json"}, {}])
def test_keys_keep_a_serdes_of_their_own_and_get_the_one_that_is_given(
    tmp_path: Path, options: dict[str, str], workers: str
) -> None:
    content = {"ann": [1], "bob": [2]}
    with PersistentDict[str, Any](tmp_path / "a", shards=2, **options) as a:
        a.update(content)
        assert dict(a.copy(serdes="pickle")) == content
    key_serdes = options.get("key_serdes")
    expected = {
        (): key_serdes or "canonical",
        ("--serdes", "pickle"): key_serdes or "canonical",
        ("--serdes", "pickle", "--key-serdes", "ordered"): "ordered",
        ("--key-serdes", "str"): "str",
        ("--key-serdes", "marshal"): "canonical",
    }
    for number, (arguments, recorded) in enumerate(expected.items()):
        assert rack("copy", "a", f"b{number}", "--workers", workers, *arguments, cwd=tmp_path).returncode == 0
        manifest = Manifest.read(str(tmp_path / f"b{number}"))
        assert manifest.key_serdes == recorded, arguments
        assert manifest.serdes == (arguments[1] if "--serdes" in arguments else options.get("serdes", "marshal"))
        with PersistentDict[str, Any](tmp_path / f"b{number}") as b:
            assert dict(b) == content
            assert b.check() == 2
            if manifest.key_serdes in ("str", "ordered"):
                assert list(b.keys().scan(prefix="a")) == ["ann"]


def test_copying_in_python_keeps_the_serdes_of_keys_as_well(tmp_path: Path) -> None:
    with PersistentDict[str, Any](tmp_path / "a", shards=1, key_serdes="str") as a:
        a["ann"] = 1
    with PersistentDict[str, Any](tmp_path / "a") as a, a.copy(tmp_path / "b", serdes="json") as b:
        assert list(b.scan(prefix="a")) == [("ann", 1)]
    with PersistentDict[str, Any](tmp_path / "c", shards=1) as c:
        c["ann"] = 1
        with c.copy(serdes="ordered") as sortable:  # whose keys had none of their own
            assert list(sortable.scan(prefix="a")) == [("ann", 1)]
    with PersistentSet[str](tmp_path / "s", shards=1, key_serdes="str") as s:
        s.add("ann")
    with PersistentSet[str](tmp_path / "s") as s, s.copy(serdes="ordered") as sorted_set:
        assert sorted_set._manifest.key_serdes == "ordered"  # of a set it is the elements that are meant


# Durability


@pytest.mark.parametrize("command", [["copy", "a", "out"], ["union", "a", "a", "-o", "out"], ["dedup", "out", "f"]])
def test_a_durability_that_is_given_is_what_the_new_store_has(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "f").write_bytes(b"a\n")
    with PersistentSet[bytes](tmp_path / "a", serdes="bytes", shards=2) as a:
        a.add(b"a")
    for durability in ("process", "everysec", "always"):
        done = rack(*command, "--durability", durability, "-q", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        with PersistentSet[bytes](tmp_path / "out") as out:
            assert out._open_store().durability == durability
            assert set(out) == {b"a"}
        for path in tmp_path.glob("out*"):
            path.unlink()
    assert "Invalid value for '--durability'" in rack(*command, "--durability", "some", cwd=tmp_path).stderr
