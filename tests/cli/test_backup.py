"""``rack backup``: what it says, and that it leaves a whole store or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.cli import main
from rack.cli.display import Counter, Wish
from tests.cli.test_ends import running
from tests.cli.test_help import on_terminal
from tests.shard.test_growth import small_disk as small_disk
from tests.support.commands import ENVIRONMENT, RACK
from tests.support.processes import assert_sound, default_engine, run
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


def backup(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*RACK, "backup", *map(str, args)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False, **options)


def filled(path: Path, count: int = 1000, **options: Any) -> PersistentSet[int]:
    with PersistentSet[int](path, **options) as store:
        store.update(range(count))
    return store


def test_it_makes_a_store_and_says_so_in_one_line(tmp_path: Path) -> None:
    filled(tmp_path / "store", shards=3)
    done = backup(tmp_path / "store.rack", tmp_path / "copy")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"rack backup: 1,000 entries backed up to {tmp_path}/copy: ")
    assert done.stderr.count("\n") == 1
    with PersistentSet[int](tmp_path / "copy") as copy:
        assert set(copy) == set(range(1000))
        assert len(copy.shards()) == 3
    assert_sound(copy)
    done = backup("--quiet", tmp_path / "store", tmp_path / "another")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_bar_counts_shards(tmp_path: Path) -> None:
    filled(tmp_path / "store", shards=5)
    shown, _ = on_terminal("backup", str(tmp_path / "store"), str(tmp_path / "copy"))
    assert b"5/5" in shown
    assert b"shards" in shown
    assert b"1,000 entries backed up" in shown


def test_errors_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    filled(tmp_path / "other", 3)
    files = sorted(os.listdir(tmp_path))
    for source, target, what in [
        ("store", "other", "does not replace one"),
        ("store", "store", "does not replace one"),
        ("store", "absent/name", "directory of the store does not exist"),
        ("store", "store.rack/name", "in place of a directory"),
        ("absent", "name", "no such store"),
    ]:
        done = backup(tmp_path / source, tmp_path / target)
        assert (done.returncode, done.stdout) == (1, "")
        assert what in done.stderr
        assert done.stderr.count("\n") == 1
        assert sorted(os.listdir(tmp_path)) == files
    with PersistentSet[int](tmp_path / "other") as other:
        assert set(other) == {0, 1, 2}


def _dump(value: object) -> bytes:
    return repr(value).encode()


def _hash(data: bytes) -> bytes:
    return data[:8].rjust(8)


def test_a_store_with_a_serdes_and_a_hash_of_its_own_is_backed_up_without_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"serdes": (eval, _dump), "hash": _hash}
    with PersistentDict[Any, Any](tmp_path / "store", **options) as store:
        store.update({"a": 1, "k" * 600: {2}})
    assert backup(tmp_path / "store", tmp_path / "copy").returncode == 0
    with PersistentDict[Any, Any](tmp_path / "copy", **options) as copy:
        assert dict(copy) == {"a": 1, "k" * 600: {2}}


def test_a_store_that_may_only_be_read_is_backed_up(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become somebody who may not write")
    with Counter(Wish(), "shard", "backed up"):
        pass  # imports what may not be readable later
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    filled(tmp_path / "in" / "store", shards=3)
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 1:
            path.chmod(0o755)
    for path in (tmp_path / "in").iterdir():
        path.chmod(0o644)
    (tmp_path / "out").chmod(0o777)

    def work() -> None:
        os.setuid(65534)
        with PersistentSet[int](tmp_path / "in" / "store", flag="r") as store:
            with store.snapshot() as snapshot:
                assert set(snapshot) == set(range(1000))
            store.backup(tmp_path / "out" / "copy")
        with PersistentSet[int](tmp_path / "out" / "copy") as copy:
            assert set(copy) == set(range(1000))
        assert main(["backup", str(tmp_path / "in" / "store"), str(tmp_path / "out" / "another")]) == 0

    run(work, [()])  # a reader of whom LMDB's writers do not know
    assert_sound(PersistentSet(tmp_path / "out" / "another"))
    if default_engine() == "lmdb":
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out").chmod(0o777)
        for path in (tmp_path / "in").glob("*-lock"):
            path.chmod(0o666)
        run(work, [()])
        assert_sound(PersistentSet(tmp_path / "out" / "another"))


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    with PersistentDict[int, bytes](tmp_path / "store", shards=4) as store:
        store.update((number, bytes(2000)) for number in range(4000))
    done = backup(tmp_path / "store", small_disk / "copy")
    assert done.returncode == 1
    assert "space" in done.stderr or "full" in done.stderr
    assert os.listdir(small_disk) == []
    filled(tmp_path / "small", 100, shards=4)
    assert backup(tmp_path / "small", small_disk / "copy").returncode == 0  # onto another file system
    assert_sound(PersistentSet(small_disk / "copy"))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_no_store(tmp_path: Path, signum: int) -> None:
    with PersistentDict[int, bytes](tmp_path / "store", shards=40) as store:
        store.update((number, bytes(2000)) for number in range(20_000))
    (tmp_path / "out").mkdir()
    with running("backup", tmp_path / "store", tmp_path / "out" / "copy") as process:
        deadline = time.monotonic() + 30
        while not any(name.startswith("copy-anonymous-") for name in os.listdir(tmp_path / "out")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signum)
        assert process.wait(30) == -signum
    left = os.listdir(tmp_path / "out")
    assert "copy.rack" not in left
    if signum != signal.SIGKILL:
        assert [name for name in left if name != "copy.rack-lock"] == []
    assert backup("-q", tmp_path / "store", tmp_path / "out" / "copy").returncode == 0
    with PersistentDict[int, bytes](tmp_path / "out" / "copy") as copy:
        assert len(copy) == 20_000
    assert_sound(copy)


@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_any_durability_is_backed_up_and_the_backup_has_a_life_of_its_own(tmp_path: Path, durability: str) -> None:
    with PersistentDict[int, bytes](tmp_path / "store", shards=2, durability=durability) as store:
        store.update((number, bytes(number)) for number in range(2000))
        with store.snapshot() as snapshot:
            store.update((number, b"new") for number in range(3000))
            assert len(snapshot) == 2000
            snapshot.backup(tmp_path / "old")
            store.backup(tmp_path / "new")
            assert snapshot[7] == bytes(7)
        with PersistentDict[int, bytes](tmp_path / "new", durability=durability) as new:
            assert new == store
            new[1] = b"newer"
        with PersistentDict[int, bytes](tmp_path / "old") as old:
            assert old[1999] == bytes(1999)
            assert 2000 not in old
    for name in ("store", "old", "new"):
        assert_sound(PersistentDict(tmp_path / name))
