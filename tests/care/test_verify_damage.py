"""``rack.care.verify``: everything that is wrong is found, and nothing ends the process."""

from __future__ import annotations

import json
import os
import random
import shutil
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
    ManifestError,
    PersistentDict,
    PersistentSet,
    StoreNotFoundError,
)
from rack.care.repair import repair
from rack.care.verify import verify
from rack.store.record import Record
from tests.care.test_verify import CONTENT, found, shard, state
from tests.care.test_verify import path as path
from tests.conformance.raw import RAW
from tests.support.damage import damage, in_child
from tests.support.processes import assert_sound
from tests.support.processes import engine as engine


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


@pytest.mark.parametrize("left", ["lmdb", "sqlite3"])
def test_what_another_store_of_the_name_has_left_is_reported(left: str, path: Path, engine: str) -> None:
    first = 4 if left == engine else 0
    files = [Path(f"{path}-{number:04d}.{left}") for number in range(first, 300) if number % 60 in (0, 5)]
    for file in files:  # some are lost
        file.touch()
    findings = verify(path).findings
    assert [finding.message.partition(" ")[0] for finding in findings] == [str(file) for file in files]


def test_a_sound_store_is_not_searched_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    there = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda file: looks.append(file) or there(file))
    assert verify(path).sound
    assert len(looks) < 300


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
