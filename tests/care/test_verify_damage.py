"""``rack.care.verify``: everything that is wrong is found, nothing that is right is, and no file is touched."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rack import (
    CorruptShardError,
    DeserializationError,
    LockTimeoutError,
    ManifestError,
    PersistentDict,
    PersistentSet,
    SerializationError,
    StoreNotFoundError,
    set_small,
)
from rack.care.repair import repair
from rack.care.verify import Report, verify
from rack.shard import shard_class
from rack.store.boot import Record
from tests.conformance.raw import RAW
from tests.support.damage import damage, in_child
from tests.support.processes import Crew, assert_sound, default_engine, hear, run_script, tell
from tests.support.processes import engine as engine

CONTENT = {
    "a": 1,
    "b": "two",
    "d": "v" * 9000,
    **{f"k{n}": n for n in range(200)},
    **{"c" * 900 + str(n): [n] for n in range(30)},
}


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    """The name of a store of four shards that holds CONTENT."""
    with PersistentDict[str, Any](tmp_path / "store", shards=4) as store:
        store.update(CONTENT)
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number:04d}{shard_class(default_engine()).suffix}")


def state(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) for file in directory.iterdir()}


def found(report: Report) -> set[tuple[int | None, str]]:
    return {(finding.shard, finding.kind) for finding in report.findings}


# Sound stores


def test_a_sound_store_has_no_findings_and_is_not_touched(path: Path) -> None:
    before = state(path.parent)
    seen = []
    report = verify(path, progress=lambda *progress: seen.append(progress))
    assert report.sound, report.as_dict()
    assert report.entries == len(CONTENT)
    assert (report.findings, report.not_checked, report.in_use) == ([], [], [])
    assert state(path.parent) == before
    done = [part for part, _ in seen]
    assert {shards for _, shards in seen} == {4}
    assert done == sorted(done)
    assert done[-1] == pytest.approx(4)
    assert_sound(PersistentDict(path))


def test_progress_is_told_inside_a_shard(tmp_path: Path, engine: str) -> None:
    with PersistentSet(tmp_path / "store", shards=1) as store:
        store.update(range(10_000))
    done: list[float] = []
    verify(tmp_path / "store", progress=lambda part, shards: done.append(part))
    assert 0 < done[0] < 0.5 < done[-2] <= done[-1] == pytest.approx(1)
    assert_sound(PersistentSet(tmp_path / "store"))


def test_workers_share_the_shards(path: Path) -> None:
    before = state(path.parent)
    done = []
    report = verify(path, workers=2, progress=lambda part, shards: done.append(part))
    assert report == verify(path)
    assert report.sound, report.as_dict()
    assert done == sorted(done)
    assert done[-1] == pytest.approx(4)
    assert state(path.parent) == before
    with pytest.raises(ValueError, match="workers=0"):
        verify(path, workers=0)
    assert_sound(PersistentDict(path))


def test_who_opens_the_store_waits_for_the_workers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They examine files that are at rest, as if nobody could change them."""
    waited = []

    def attempt(part: float, shards: int) -> None:
        if not waited:
            with pytest.raises(LockTimeoutError):
                PersistentDict[str, Any](path, timeout=0.05).open()
            waited.append(part)

    assert verify(path, workers=2, progress=attempt).sound
    assert waited
    assert_sound(PersistentDict(path))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def test_workers_that_are_new_interpreters(tmp_path: Path, engine: str) -> None:
    """As they are where a thread runs: a fork might copy a lock that it holds."""
    with PersistentDict[str, Any](tmp_path / "store", shards=4, hash=_hash, serdes="pickle") as store:
        store.update(CONTENT)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        report = verify(tmp_path / "store", hash=_hash, workers=2)
        assert (report.sound, report.entries, report.not_checked) == (True, len(CONTENT), [])
        with pytest.raises(SerializationError, match="workers=1"):
            verify(tmp_path / "store", hash=lambda data: _hash(data), workers=2)
    finally:
        stop.set()
        thread.join()
    assert_sound(PersistentDict(tmp_path / "store", hash=_hash))


def test_a_store_that_cannot_be_written_is_verified(path: Path) -> None:
    """On a medium for reading alone; the lock file may not be there either."""
    Path(f"{path}.rack-lock").unlink()
    for file in path.parent.glob("*-lock"):
        file.unlink()
    files = list(path.parent.iterdir())
    for file in files:
        file.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        before = state(path.parent)
        assert verify(path).sound
        assert state(path.parent) == before
    finally:
        path.parent.chmod(0o755)
        for file in files:
            file.chmod(0o644)
    assert_sound(PersistentDict(path))


def _reverse(data: bytes) -> bytes:
    return data[::-1][:8].ljust(8)


class Reversed:
    @staticmethod
    def dumps(value: Any) -> bytes:
        return pickle.dumps(value)[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return pickle.loads(data[::-1])


KINDS: dict[str, tuple[type[Any], dict[str, Any], list[str]]] = {
    "dict": (PersistentDict, {}, []),
    "set": (PersistentSet, {}, []),
    "pickle": (PersistentDict, {"serdes": "pickle"}, []),
    "json": (PersistentDict, {"serdes": "json"}, []),
    "ordered": (PersistentDict, {"key_serdes": "ordered"}, []),
    "str": (PersistentSet, {"serdes": "str"}, []),
    "own serdes": (PersistentDict, {"serdes": Reversed}, ["serdes=Reversed"]),
    "own serdes for keys": (PersistentDict, {"key_serdes": Reversed}, ["key_serdes=Reversed"]),
    "own hash": (PersistentDict, {"hash": _reverse}, ["hash=_reverse"]),
    "all one's own": (PersistentDict, {"serdes": Reversed, "key_serdes": Reversed, "hash": _reverse}, ["s", "k", "h"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_is_verified(kind: str, tmp_path: Path, engine: str) -> None:
    cls, options, lacks = KINDS[kind]
    keys = [f"k{number}" for number in range(50)] + ["long" * 300, "", "\0", "\1", "long" * 300 + "er"]
    with cls(tmp_path / "store", **options) as store:
        for key in keys:
            store.add(key) if cls is PersistentSet else store.__setitem__(key, [key, 1.5])
    report = verify(tmp_path / "store")
    assert report.sound, report.as_dict()
    assert report.entries == len(keys)
    for lack, mention in zip(report.not_checked, lacks, strict=True):
        assert mention in lack
    assert verify(tmp_path / "store", **options).not_checked == []
    assert_sound(store)


def test_a_small_set_is_verified(tmp_path: Path) -> None:
    with set_small.PersistentSet(tmp_path / "store") as store:
        store.update(map(str, range(100)))
    report = verify(tmp_path / "store")
    assert (report.sound, report.entries) == (True, 100)
    assert_sound(store)


def test_pickles_are_verified_without_their_classes_and_without_running_them(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    run_script(
        """
        import os, sys
        from dataclasses import dataclass
        from rack import PersistentDict

        @dataclass(frozen=True)
        class Point:
            x: int

        class Evil:
            def __reduce__(self):
                return os.mkdir, (sys.argv[1] + "-ran",)

        with PersistentDict(sys.argv[1], serdes="pickle") as store:
            store["a"] = [Point(1), {Point(2): {3}}, complex(1, 2), bytearray(b"x")]
            store["b"] = Evil()
            store[Point(3)] = 4
        """,
        path,
    )
    report = verify(path)
    assert report.sound, report.as_dict()
    assert report.entries == 3
    assert "1 keys" in report.not_checked[0]
    assert not os.path.exists(f"{path}-ran")


def test_a_store_that_this_process_has_open_is_verified(path: Path) -> None:
    with PersistentDict[str, Any](path) as store:
        for workers in (1, 2):
            report = verify(path, workers=workers)
            assert report.sound, report.as_dict()
            assert report.in_use == [0, 1, 2, 3]
            assert report.entries == len(CONTENT)
        store["more"] = 1
        assert store.check() == len(CONTENT) + 1
    assert_sound(store)


def test_a_log_that_a_killed_process_left_is_part_of_the_store(path: Path) -> None:
    def die() -> None:
        store = PersistentDict[str, Any](path).open()
        store["last words"] = 1
        os.kill(os.getpid(), 9)

    assert in_child(die) == 9
    before = state(path.parent)
    report = verify(path)
    assert report.sound, report.as_dict()
    assert report.entries == len(CONTENT) + 1
    assert state(path.parent) == before
    assert_sound(PersistentDict(path))


# Damage


def _alter(file: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


def test_what_is_wrong_in_several_shards_is_all_reported(path: Path) -> None:
    shard(path, 0).unlink()
    shutil.copy(shard(path, 1), shard(path, 2))
    os.truncate(shard(path, 3), 4096)
    shutil.copy(shard(path, 1), shard(path, 7))
    before = state(path.parent)
    report = verify(path)
    assert verify(path, workers=3) == report
    assert not report.sound
    assert found(report) >= {(0, "missing"), (2, "swapped"), (3, "structure"), (None, "manifest")}
    assert not [finding for finding in report.findings if finding.shard == 1]
    assert state(path.parent) == before
    listed: Any = report.as_dict()["findings"]
    assert {entry["file"] for entry in listed} >= {str(shard(path, number)) for number in (0, 2, 3)}


def test_every_way_to_damage_a_shard_is_reported(path: Path, engine: str) -> None:
    file = shard(path, 1)
    good = file.read_bytes()
    for name, harm in RAW[engine].damages().items():
        if name == "identity of another store" and engine == "sqlite3":
            continue  # that is for another store
        harm(file)
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        before = state(path.parent)
        report = verify(path)
        assert {number for number, _ in found(report)} == {1}, f"{name}: {report.as_dict()}"
        assert state(path.parent) == before, name
        file.write_bytes(good)
    assert_sound(PersistentDict(path))


def test_entries_that_are_not_what_rack_stores(path: Path, engine: str) -> None:
    raw = RAW[engine]
    key = next(f"x{n}" for n in range(100) if raw.shard_of(dump(f"x{n}"), 4) == 1)
    unreadable = next(b"!%d" % n for n in range(100) if raw.shard_of(b"!%d" % n, 4) == 1)
    unusual = next(m for n in range(100) if raw.shard_of(m := b"\xe9" + n.to_bytes(4, "little"), 4) == 1)  # a ref int
    raw.write(shard(path, 0), [(dump(key), dump(1))])
    raw.write(shard(path, 1), [(unreadable, dump(1)), (unusual, dump(1)), (dump(key), b"\xff")])
    report = verify(path)
    assert found(report) == {(0, "shard"), (1, "key"), (1, "value")}, report.as_dict()
    assert report.found == 4
    assert report.entries == len(CONTENT) + 4
    with PersistentDict[str, Any](path) as store, pytest.raises(CorruptShardError, match="belongs to shard 1"):
        store.check()


def dump(value: object) -> bytes:
    import marshal

    return marshal.dumps(value, 2)


def test_a_value_beside_an_element_of_a_set_and_a_key_that_cannot_be_read(tmp_path: Path, engine: str) -> None:
    with PersistentSet[str](tmp_path / "store", shards=1) as store:
        store.add("a")
    RAW[engine].write(shard(tmp_path / "store", 0), [(dump("b"), b"value"), (b"!!", b"")])
    assert found(verify(tmp_path / "store")) == {(0, "record"), (0, "key")}
    with store, pytest.raises((CorruptShardError, DeserializationError)):
        store.check()


def test_many_findings_of_a_kind_are_counted_and_the_first_are_listed(path: Path, engine: str) -> None:
    raw = RAW[engine]
    wrong = [b"%05d!" % n for n in range(2000)]
    raw.write(shard(path, 2), [(key, dump(1)) for key in wrong if raw.shard_of(key, 4) == 2])
    report = verify(path)
    assert report.found > 400
    assert len(report.findings) == 20


def test_a_damaged_lmdb_shard_is_never_opened_with_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=2, engine="lmdb") as store:
        store.update(CONTENT)

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("LMDB was called")

    monkeypatch.setattr(lmdb, "open", refuse)
    assert verify(path).sound
    _alter(Path(f"{path}-0001.lmdb"), lambda data: data.__setitem__(slice(8192, None), bytes(len(data) - 8192)))
    assert found(verify(path)) == {(1, "structure")}


def test_a_long_value_that_is_not_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, bytes](path, shards=1, engine="lmdb") as store:
        store["a"] = b"v" * 9000
    _alter(Path(f"{path}-0000.lmdb"), lambda data: data.__setitem__(data.index(b"v" * 5000) + 4500, 0))
    assert found(verify(path)) == {(0, "checksum")}


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"format": 1}'])
def test_a_damaged_manifest_is_reported(content: bytes, path: Path) -> None:
    manifest = Path(f"{path}.rack")
    good = manifest.read_bytes()
    manifest.write_bytes(content)
    assert found(verify(path)) == {(None, "manifest")}
    manifest.unlink()
    assert found(verify(path)) == {(None, "manifest")}
    manifest.write_bytes(good)
    assert_sound(PersistentDict(path))


def test_what_cannot_be_verified_is_an_error(path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        verify(path.with_name("nothing"))
    with pytest.raises(StoreNotFoundError):
        verify(path / "no" / "directory")
    manifest = Path(f"{path}.rack")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(ManifestError, match="pip install"):
        verify(path)


def test_no_damage_ends_the_process(path: Path, seed: int, long: bool) -> None:
    chance = random.Random(seed)
    good = {number: shard(path, number).read_bytes() for number in range(4)}
    for case in range(300 if long else 40):
        number = chance.randrange(4)
        data, done = damage(good[number], chance)
        shard(path, number).write_bytes(data)
        ended = in_child(partial(verify, path))
        assert ended == 0, f"case {case}: {done}: signal {ended}"
        began = time.monotonic()
        verify(path)
        assert time.monotonic() - began < 20, f"case {case}: {done}"
        shard(path, number).write_bytes(good[number])
    assert_sound(PersistentDict(path))


# Stores in use


def _write(path: Path, seed: int, seconds: float) -> int:
    chance = random.Random(seed)
    deadline = time.monotonic() + seconds
    rounds = 0
    with PersistentDict[str, Any](path, flag="w") as store:
        tell("open")
        while time.monotonic() < deadline:
            rounds += 1
            for _ in range(200):
                key = f"{chance.randrange(3000)}" + "l" * chance.choice((0, 0, 0, 600))
                what = chance.randrange(10)
                if what < 6:
                    store[key] = b"v" * chance.choice((1, 20, 300, 3000, 20_000))
                elif what < 9:
                    store.pop(key, None)
                else:
                    store.incr("counter")
            if not rounds % 20:
                store.update({f"bulk{number}": number for number in range(2000)})
            if not rounds % 90:
                store.clear()
    return rounds


def test_no_false_alarm_while_four_processes_write(tmp_path: Path, engine: str, seed: int, long: bool) -> None:
    path = tmp_path / "store"
    seconds = 60.0 if long else 5.0
    with PersistentDict[str, Any](path, shards=2) as store:
        store.update(CONTENT)
    with Crew() as crew:
        workers = [crew.start(_write, path, seed + number, seconds) for number in range(4)]
        for worker in workers:
            worker.hear()
        reports = 0
        deadline = time.monotonic() + seconds - 1
        while time.monotonic() < deadline:
            report = verify(path)
            assert report.sound, report.as_dict()
            assert report.in_use == [0, 1]
            with PersistentDict[str, Any](path, flag="w") as store:
                store.check()
            reports += 1
        rounds = [worker.result() for worker in workers]
    print(f"{reports} reports, rounds of the writers: {rounds}")
    assert reports
    assert verify(path).in_use == []
    assert_sound(PersistentDict(path))


def _come_and_go(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        with PersistentDict[str, Any](path, flag="w") as store:
            for _ in range(20):
                number += 1
                store[f"{os.getpid()}-{number % 500}"] = b"v" * (number % 5000)


def test_no_false_alarm_while_processes_open_and_close_the_store(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=2) as store:
        store.update(CONTENT)
    with Crew() as crew:
        workers = [crew.start(_come_and_go, path, 3.0) for _ in range(2)]
        deadline = time.monotonic() + 2.5
        for processes in itertools.cycle((1, 2)):
            if time.monotonic() > deadline:
                break
            report = verify(path, workers=processes)
            assert report.sound, report.as_dict()
        for worker in workers:
            worker.result()
    assert_sound(PersistentDict(path))


def _replace(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError), PersistentDict[str, Any](path, flag="n", shards=3) as store:
            store.update(CONTENT)


def test_a_store_that_is_replaced_meanwhile_is_no_alarm(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=3) as store:
        store.update(CONTENT)
    with Crew() as crew:
        worker = crew.start(_replace, path, 3.0)
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreNotFoundError):
                report = verify(path)
                assert report.sound, report.as_dict()
        worker.result()
    assert_sound(PersistentDict(path))


def _stay(path: Path) -> None:
    with PersistentDict[str, Any](path, flag="w") as store:
        store["x"] = 1
        tell("open")
        hear()


def test_damage_is_found_while_the_store_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=1, engine="lmdb") as store:
        store.update(CONTENT)
    with Crew() as crew:
        worker = crew.start(_stay, path)
        worker.hear()
        with open(f"{path}-0000.lmdb", "r+b") as file:
            data = file.read()
            file.seek(data.index(b"v" * 5000) + 4500)
            file.write(b"!")
        report = verify(path)
        assert (report.in_use, found(report)) == ([0], {(0, "checksum")})
        worker.tell()
        worker.result()


# Power failures


def test_a_shard_that_was_written_to_when_the_system_stopped_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=2, engine="lmdb") as store:
        store.update(CONTENT)
    clean = Path(f"{path}.rack-boot").read_bytes()
    Record("another boot", "process").write(str(path), [0, 0])  # not the stamps that the shards have
    before = state(tmp_path)
    assert found(verify(path)) == {(0, "power"), (1, "power")}
    assert state(tmp_path) == before
    report = repair(path)
    assert (report.sound, report.kept) == (False, len(CONTENT))
    assert state(tmp_path).items() >= before.items()
    Path(f"{path}.rack-boot").write_bytes(clean)
    assert_sound(PersistentDict(path))
    assert_sound(PersistentDict(report.to))


def test_a_store_that_has_to_be_rebuilt_is_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=2, engine="lmdb", durability="everysec") as store:
        store.update(CONTENT)
    Record("another boot", "everysec").write(str(path), [0, 0])
    before = state(tmp_path)
    report = verify(path)
    assert (report.found, len(report.unexamined), report.sound) == (0, 2, False)
    assert state(tmp_path) == before
    with PersistentDict[str, Any](path) as store:
        assert dict(store) == CONTENT
    assert verify(path).sound
    assert_sound(store)
