"""``rack.care.repair``: what is readable is salvaged, nothing wrong ever is, and the original is never touched."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet, set_small
from rack.care.outcome import Report
from rack.care.repair import repair
from rack.shard import shard_class
from tests.care.test_verify import KINDS
from tests.conformance.raw import RAW
from tests.support.damage import PAGE, damage, in_child
from tests.support.processes import assert_sound, default_engine
from tests.support.processes import engine as engine

CONTENT: dict[str, Any] = {
    **{f"k{n}": n for n in range(1500)},
    **{"long" * 200 + str(n): [n] for n in range(40)},
    **{f"large{n}": f"{n}" * 4000 for n in range(20)},
}
GONE = {f"gone{n}": n for n in range(1000)}  # deleted


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    """The name of a store of two shards that holds CONTENT, and has free pages."""
    with PersistentDict[str, Any](tmp_path / "store", shards=2) as store:
        store.update(GONE)
        store.update(CONTENT)
        store.delete_many(GONE)
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number:04d}{shard_class(default_engine()).suffix}")


def state(path: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in path.parent.iterdir()
        if file.name.startswith(f"{path.name}-0") or file.name.startswith(f"{path.name}.")
    }


def repaired(path: Path, **options: Any) -> tuple[Report, dict[Any, Any]]:
    """Repair a store; return the report and what is in the new store, which is removed."""
    before = state(path)
    report = repair(path, **options)
    assert state(path) == before
    new = PersistentDict[Any, Any](f"{path}-repaired", flag="w")
    with new:
        content = dict(new)
        assert new.check() == len(content) == report.kept
    assert_sound(new)
    for file in path.parent.glob(f"{path.name}-repaired*"):
        file.unlink()
    return report, content


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


# What is sound


def test_a_sound_store_is_copied(path: Path) -> None:
    report, content = repaired(path)
    assert report.sound, report.as_dict()
    assert content == CONTENT
    assert [shard.lost for shard in report.shards] == [0, 0]
    assert_sound(PersistentDict(path))


def test_a_backup_is_repaired_as_its_source_is(path: Path) -> None:
    with PersistentDict[str, Any](path, flag="w") as store:
        store.backup(path.with_name("backup"))
        source_id = store._manifest.id.encode()
    assert not [file for file in path.parent.glob("backup*") if source_id in file.read_bytes()]
    report, content = repaired(path.with_name("backup"))
    assert report.sound
    assert content == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_is_repaired(kind: str, tmp_path: Path, engine: str) -> None:
    cls, options, _ = KINDS[kind]
    keys = [f"k{number}" for number in range(50)] + ["long" * 300, "", "\0", "\1", "long" * 300 + "er"]
    with cls(tmp_path / "store", shards=3, **options) as store:
        for key in keys:
            store.add(key) if cls is PersistentSet else store.__setitem__(key, [key, 1.5])
    report = repair(tmp_path / "store", tmp_path / "new")
    assert report.sound, report.as_dict()
    hash_is_lost = {name: value for name, value in options.items() if name != "hash"}
    with cls(tmp_path / "new", flag="w", **hash_is_lost) as new:
        assert set(new) == set(keys)
        assert new.check() == len(keys)
    repair(tmp_path / "store", tmp_path / "another", **options)
    with cls(tmp_path / "another", flag="w", **options) as new:
        assert set(new) == set(keys)
    assert_sound(new)


def test_a_small_set_is_repaired(tmp_path: Path) -> None:
    with set_small.PersistentSet[str](tmp_path / "store") as store:
        store.update(map(str, range(100)))
    assert repair(tmp_path / "store").sound
    with set_small.PersistentSet[str](tmp_path / "store-repaired", flag="w") as new:
        assert set(new) == set(map(str, range(100)))
    assert_sound(new)


def test_a_log_that_a_killed_process_left_is_salvaged(path: Path) -> None:
    def die() -> None:
        store = PersistentDict[str, Any](path).open()
        store.update({f"late{n}": n for n in range(500)})
        os.kill(os.getpid(), 9)

    assert in_child(die) == 9
    report, content = repaired(path)
    assert report.sound, report.as_dict()
    assert content == CONTENT | {f"late{n}": n for n in range(500)}
    assert_sound(PersistentDict(path))


def test_what_a_torn_log_has_committed_is_salvaged(path: Path, engine: str) -> None:
    """The log is cut at any place: what is left is a state that has been."""
    if engine != "sqlite3":
        pytest.skip("has no log")

    def die() -> None:
        store = PersistentDict[str, Any](path).open()
        for number in range(20):
            store[f"late{number}"] = number
        os.kill(os.getpid(), 9)

    assert in_child(die) == 9
    for number in range(2):
        wal = Path(f"{shard(path, number)}-wal")
        os.truncate(wal, wal.stat().st_size * 2 // 3)
    _, content = repaired(path)
    late = {key for key in content if key.startswith("late")}
    assert 0 < len(late) < 20
    assert content == CONTENT | {key: int(key[4:]) for key in late}
    for number in range(2):  # and in its middle: what is behind is not believed
        wal = Path(f"{shard(path, number)}-wal")
        overwrite(wal, wal.stat().st_size // 2, b"noise")
    _, content = repaired(path)
    assert content.items() <= (CONTENT | {f"late{number}": number for number in range(20)}).items()
    assert {key for key in content if key.startswith("late")} < late


# What is damaged


def wrong(content: dict[str, Any], engine: str) -> dict[str, Any]:
    """Return what is in ``content`` that has never been in the store."""
    odd = {key: value for key, value in content.items() if CONTENT.get(key, GONE.get(key)) != value}
    if engine == "sqlite3":  # has no checksums: nobody can tell what was in a page in the middle of a large value
        odd = {key: value for key, value in odd.items() if not key.startswith("large")}
    return odd


def keys_in(page: bytes, engine: str) -> set[str]:
    """Return the keys of CONTENT that are in a page, as bytes somewhere: a superset of those that are stored there."""
    return {key for key in CONTENT if key.encode() in page}


def test_a_page_that_is_lost_costs_what_was_in_it(path: Path, engine: str, long: bool) -> None:
    """Zeros in the place of each page in turn."""
    file = shard(path, 0)
    data = file.read_bytes()
    of_shard = {key for key in CONTENT if RAW[engine].shard_of(dumped(key), 2) == 0}
    last = len(data) // PAGE
    pages = range(last) if long else random.Random(1).sample(range(last), 12)
    whole = 0
    for number in {0, 1, 2, 3, *pages}:
        page = data[number * PAGE : (number + 1) * PAGE]
        if not any(page):
            continue
        overwrite(file, number * PAGE, bytes(PAGE))
        report, content = repaired(path)
        overwrite(file, number * PAGE, page)
        assert not wrong(content, engine), f"page {number}"
        if engine == "lmdb" and number < 2 and len(content) > len(CONTENT):
            assert "last transaction" in report.shards[0].problems[-1]  # which had deleted some
            continue
        lost = CONTENT.keys() - content.keys()
        assert lost <= of_shard
        assert report.shards[1].lost == 0
        may_be_lost = keys_in(page, engine) | {key for key in CONTENT if key.startswith("large")}
        if engine == "lmdb":
            may_be_lost |= {key for key in CONTENT if key.startswith("long")}  # under the beginning of the key
        header = number == 0 if engine == "sqlite3" else False
        assert header or lost <= may_be_lost, f"page {number}: lost {sorted(lost - may_be_lost)[:5]}"
        assert report.sound == (not report.shards[0].found)
        assert lost or not report.shards[0].lost
        assert not lost or report.shards[0].lost == len(lost) or report.shards[0].counted is None
        whole += not lost
    assert whole
    assert_sound(PersistentDict(path))


def dumped(key: str) -> bytes:
    import marshal

    return marshal.dumps(key, 2)


def test_no_wrong_value_is_salvaged_whatever_is_damaged(path: Path, engine: str, seed: int, long: bool) -> None:
    """Pages swapped, doubled, torn, zeroed, cut off, in any number; bits flipped outside of small values."""
    chance = random.Random(seed)
    file = shard(path, 0)
    data = file.read_bytes()
    kept = []
    for case in range(200 if long else 15):
        damaged, done = data, "flip_bits"
        while "flip" in done or "copy_number" in done:  # inside a small value nobody can tell: see below
            damaged, done = damage(data, chance)
        file.write_bytes(damaged)
        assert in_child(partial(repair, path, f"{path}-in-child")) == 0, f"case {case}: {done}"
        report, content = repaired(path)
        assert not wrong(content, engine), f"case {case}: {done}"
        assert report.shards[1].lost == 0
        for made in path.parent.glob(f"{path.name}-in-child*"):
            made.unlink()
        kept.append(len(content))
    print(f"kept of {len(CONTENT)}: {sorted(kept)}")
    file.write_bytes(data)
    assert_sound(PersistentDict(path))


def test_a_kind_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "s", shards=1) as store:
        store.add(1)
    with pytest.raises(ValueError, match="kind='bag': must be 'dict', 'set', 'queue' or None"):
        rack.repair(tmp_path / "s", tmp_path / "t", kind="bag")
    assert not (tmp_path / "t.rack").exists()
