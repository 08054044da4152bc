"""Repair of a store with durability "everysec": a damaged shard is made anew of its base and its journal."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.care.repair import repair
from rack.errors import StoreFullError
from rack.shard.lmdb.journal import base_path, generations, journal_path
from rack.shard.lmdb.journaled import Journalling
from tests.care.test_repair import CONTENT, GONE, overwrite, repaired, shard
from tests.support.damage import PAGE, damage, in_child
from tests.support.everysec import everysec, fail_power, stop_keepers
from tests.support.processes import assert_sound

LATE = {f"late{number}": number for number in range(300)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The name of a store whose bases hold CONTENT, and whose journals say what was changed since."""
    with PersistentDict[str, Any](tmp_path / "store", shards=2, durability="process") as store:
        store.update(CONTENT)
        store.update(GONE)
    with everysec(tmp_path / "store") as store:
        for key, value in LATE.items():
            store[key] = value
        store.delete_many(GONE)
    return tmp_path / "store"


def journal_of(file: Path) -> Path:
    return Path(journal_path(str(file), generations(str(file), "journal")[-1]))


def base_of(file: Path) -> Path:
    return Path(base_path(str(file), generations(str(file), "base")[-1]))


def leftovers(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir() if "remade" in file.name or "anonymous" in file.name]


def test_a_sound_store_is_taken_as_it_is(path: Path) -> None:
    report, content = repaired(path)
    assert report.sound, report.as_dict()
    assert content == CONTENT | LATE
    assert not leftovers(path)
    assert_sound(PersistentDict(path))


def test_whatever_is_damaged_in_a_shard_nothing_is_lost(path: Path, seed: int, long: bool) -> None:
    """Pages swapped, doubled, torn, zeroed, cut off; no bits flipped: in a small key or value none can tell."""
    chance = random.Random(seed)
    file = shard(path, 0)
    data = file.read_bytes()
    anew = 0
    for case in range(200 if long else 15):
        damaged, done = data, "flip_bits"
        while "flip" in done or "copy_number" in done:
            damaged, done = damage(data, chance)
        file.write_bytes(damaged)
        report, content = repaired(path)
        assert content == CONTENT | LATE, f"case {case}: {done}: {report.as_dict()}"
        assert report.shards[0].lost == 0, f"case {case}: {done}"
        assert not report.shards[1].found
        anew += report.shards[0].problems[-1:] == ["is made anew of its base and its journal"]
    assert anew
    assert not leftovers(path)
    file.write_bytes(data)
    assert_sound(PersistentDict(path))


def test_a_shard_that_is_not_there_is_made_anew(path: Path) -> None:
    shard(path, 1).unlink()
    report, content = repaired(path)
    assert content == CONTENT | LATE
    assert report.shards[1].problems == [
        "is lost: there is no file that is this shard",
        "is made anew of its base and its journal",
    ]
    assert report.shards[1].lost == 0
    assert not report.sound


def test_what_a_journal_says_that_breaks_off_may_be_old(path: Path) -> None:
    file = shard(path, 0)
    journal = journal_of(file)
    data = file.read_bytes()
    overwrite(journal, 4096 + 1000, b"noise")
    report, content = repaired(path)
    assert report.sound  # nobody needs it
    assert content == CONTENT | LATE
    file.write_bytes(bytes(len(data)))
    report, content = repaired(path)
    assert "has a journal that breaks off: what that says may be old" in report.shards[0].problems
    assert content.items() < (CONTENT | LATE).items()
    assert report.shards[0].kept == 0
    assert report.shards[0].strays > 500
    report, content = repaired(path, stray=True)
    assert content.items() > {key: value for key, value in CONTENT.items() if key not in LATE}.items()
    assert GONE.keys() & content.keys()  # that is what old means
    assert content.items() <= (CONTENT | LATE | GONE).items()


def test_a_damaged_base_is_not_believed(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = shard(path, 0)
    base = base_of(file)
    data = base.read_bytes()
    overwrite(file, 3 * PAGE, bytes(PAGE))
    _, without = repaired_without_journals(path)
    refused = 0
    for case in range(10):
        at = chance.randrange(len(data) // PAGE) * PAGE
        overwrite(base, at, chance.randbytes(PAGE))
        assert in_child(partial(repair, path, f"{path}-in-child")) == 0, f"case {case}"
        for made in path.parent.glob(f"{path.name}-in-child*"):
            made.unlink()
        report, content = repaired(path)
        if "of no use" in " ".join(report.shards[0].problems):
            refused += 1
            assert content == without
        else:  # it was in no page that is in use
            assert content == CONTENT | LATE
        base.write_bytes(data)
    assert refused
    assert not leftovers(path)


def repaired_without_journals(path: Path) -> tuple[Any, dict[Any, Any]]:
    place = path.parent / "without"
    place.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        if "-journal-" not in file.name and "-base-" not in file.name:
            (place / file.name).write_bytes(file.read_bytes())
    return repaired(place / path.name)


def test_journals_of_which_one_is_missing_are_not_believed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journalling, "_is_due", lambda self, journal: True)
    monkeypatch.setattr(Journalling, "_make_base", lambda self, journal: None)
    with everysec(path) as store:
        stop_keepers(store)
        store.update({f"more{number}": number for number in range(300)})
        for each in store._store.shards:
            each.keep(True)
            each.shorten()
        store.update({f"most{number}": number for number in range(300)})
        held = dict(store)
    file = shard(path, 0)
    there = generations(str(file), "journal")
    assert len(there) == 2
    overwrite(file, 0, bytes(2 * PAGE))
    assert repaired(path)[1] == held
    os.unlink(journal_path(str(file), there[0]))
    report, content = repaired(path)
    assert f"{journal_path(str(file), there[0])} is missing" in " ".join(report.shards[0].problems)
    assert report.shards[0].kept == 0
    assert content.items() < held.items()


def test_after_a_power_failure_journals_are_believed_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(path) as store:
        stop_keepers(store)
        store["later"] = 1
        store.sync()
        after = fail_power(path, monkeypatch)
    report, content = repaired(after)
    assert content == CONTENT | LATE | {"later": 1}
    assert [each.problems[-1] for each in report.shards] == ["is made anew of its base and its journal"] * 2
    with everysec(after) as store:  # opening does the same
        assert dict(store) == content
    assert_sound(store)


def test_without_space_for_the_copy_nothing_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rack.shard.lmdb.journalfiles._copy", full)
    with pytest.raises(StoreFullError):
        repair(path)
    assert not leftovers(path)
    assert not list(path.parent.glob("*-repaired*"))


def test_a_journal_that_was_left_over_is_not_believed(path: Path) -> None:
    """Who was killed while "everysec" was switched on, or off, leaves some; later writes were not journalled."""
    place = path.parent / "left-over"
    place.mkdir()
    for file in path.parent.glob("store-*-*"):
        if "-journal-" in file.name or "-base-" in file.name:
            (place / file.name).write_bytes(file.read_bytes())
    with PersistentDict[str, Any](path, durability="process") as store:
        store["later"] = 1
        store.update({f"k{number}": "changed" for number in range(100)})
        held = dict(store)
    for file in place.iterdir():
        (path.parent / file.name).write_bytes(file.read_bytes())
    shard(path, 0).unlink()
    overwrite(shard(path, 1), 3 * PAGE, bytes(PAGE))
    report, content = repaired(path)
    assert content.items() <= held.items()
    assert report.shards[0].kept == 0
    assert "anew" not in str(report.as_dict())
