"""Who has which duty with a store's files on the disk: where two things meet that are right alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, repair
from rack.errors import CorruptShardError, StoreDeletedError, StoreFullError
from rack.shard.lmdb import compact, datafile, journaled, journalfiles
from rack.shard.lmdb.journal import generations, journal_path
from rack.shard.problem import Problem
from rack.store.record import DURABILITIES, Record
from tests.support.everysec import everysec, fail_power, stop_keepers
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-lock")}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_process_whose_store_was_replaced_leaves_the_new_one_alone(
    durability: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins no journal there, names no base, and puts nothing down."""
    monkeypatch.setattr(journaled, "_ROTATE_AT", 1000)
    path = tmp_path / "folder" / "d"
    path.parent.mkdir()

    def use() -> None:
        d = PersistentDict[Any, Any](path, shards=2, durability=durability, engine=engine).open()
        stop_keepers(d) if durability == "everysec" else None
        d.update({number: bytes(100) for number in range(500)})
        tell()
        hear()  # the store is removed, and a new one there
        assert d._held is not None
        shards = d._held.shards
        for work in ([d.sync], [partial(shard.keep, True) for shard in shards], [shard.shorten for shard in shards]):
            for do in work * 3:
                try:
                    do()
                except StoreDeletedError:
                    pass
                except CorruptShardError as error:
                    raise AssertionError("the new store's files were taken for its own") from error
        with pytest.raises(StoreDeletedError):
            d.close()

    with Crew() as crew:
        worker = crew.start(use)
        worker.hear()
        for file in path.parent.iterdir():
            file.unlink()
        with PersistentDict[Any, Any](path, shards=2, durability=durability, engine=engine) as new:
            new.update({number: bytes(100) for number in range(500)})
        before = contents(path.parent)
        worker.tell()
        worker.result()
    assert contents(path.parent) == before
    with PersistentDict[Any, Any](path) as new:
        assert len(new) == 500
    assert_sound(PersistentDict(path))


def test_nobody_waits_for_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither writers that meet a full map, which undo their transactions, nor a fork."""
    path = tmp_path / "d"
    in_copy: list[float] = []

    with everysec(path, shards=1) as d:
        stop_keepers(d)
        d.update({number: bytes(1000) for number in range(2000)})
        (shard,) = d._store.shards
        journalling = shard._journalled  # type: ignore[attr-defined]
        real = journalling._proceed

        def slowly() -> None:
            in_copy.append(time.monotonic())
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                real()
                time.sleep(0.01)

        journalling._proceed = slowly
        journalling._journal.base_size = 0  # so that one is due

        def write_beyond_the_map() -> float:
            begun = time.monotonic()
            with PersistentDict[Any, Any](path) as other:
                other["large"] = bytes(8 << 20)
                other["small"] = 1
            return time.monotonic() - begun

        def make_base() -> None:
            shard.shorten()

        thread = Thread(target=make_base)
        thread.start()
        while not in_copy:
            time.sleep(0.01)
        with Crew() as crew:
            begun = time.monotonic()
            worker = crew.start(write_beyond_the_map)  # a fork: the copy gives way
            assert time.monotonic() - begun < 1
            d["own"] = bytes(16 << 20)  # this process grows the map
            assert worker.result() < 1.5
        thread.join()
        expected = dict(d)
        d.sync()
        after = fail_power(path, monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == expected


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_no_other_process_waits_for_a_backup(durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that makes it meets a full map meanwhile, which it does inside LMDB's writer lock."""
    path = tmp_path / "d"
    in_copy = Event()
    real = datafile.copy

    def slowly(*args: Any) -> None:
        in_copy.set()
        time.sleep(1.5)
        real(*args)

    def write() -> float:
        with PersistentDict[Any, Any](path) as other:
            other["other"] = 0
            tell()
            hear()
            begun = time.monotonic()
            for number in range(20):
                other["other"] = number
            return time.monotonic() - begun

    with PersistentDict[Any, Any](path, shards=1, durability=durability) as d, Crew() as crew:
        d.update({number: bytes(1000) for number in range(1000)})
        worker = crew.start(write)
        worker.hear()
        expected = dict(d)
        monkeypatch.setattr(datafile, "copy", slowly)
        making = Thread(target=d.backup, args=(tmp_path / "backup",))
        making.start()
        assert in_copy.wait(20)
        writing = Thread(target=d.__setitem__, args=("large", bytes(16 << 20)))
        writing.start()
        time.sleep(0.2)  # it is at the end of the map
        worker.tell()
        assert worker.result() < 1
        making.join()
        writing.join()
        assert len(d["large"]) == 16 << 20
    with PersistentDict[Any, Any](tmp_path / "backup") as backup:
        assert dict(backup) == expected
    assert_sound(PersistentDict(tmp_path / "backup"))
    assert not [file.name for file in tmp_path.iterdir() if "raw" in file.name]


def test_a_backup_of_a_snapshot_is_of_its_state_whatever_was_committed_since(tmp_path: Path) -> None:
    """So many commits that both meta pages have been overwritten, and so few that the map has not grown."""
    with PersistentDict[Any, Any](tmp_path / "d", engine="lmdb", shards=1) as d:
        d.update({number: bytes(1000) for number in range(2000)})
        expected = dict(d)
        with d.snapshot() as snapshot:
            for number in range(5):
                d[number] = b"new"
            assert not snapshot._store.shards[0]._detached  # type: ignore[attr-defined]
            snapshot.backup(tmp_path / "backup")
    with PersistentDict[Any, Any](tmp_path / "backup") as backup:
        assert dict(backup) == expected
    assert_sound(PersistentDict(tmp_path / "backup"))


def test_commits_that_come_right_after_the_meta_page_was_read_do_not_get_into_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They overwrite that page."""
    with everysec(tmp_path / "d", shards=1) as d:
        stop_keepers(d)
        d.update({number: bytes(1000) for number in range(300)})
        (shard,) = d._store.shards
        real = compact.begin_held
        turns: list[int] = []

        def begin(*args: Any) -> Any:
            begun = real(*args)
            if len(turns) < 3:
                turns.append(1)
                for number in range(4):
                    d[f"more {len(turns)} {number}"] = bytes(1000)
            return begun

        monkeypatch.setattr(compact, "begin_held", begin)
        shard.copy(str(tmp_path / "copy"), lambda: None)  # type: ignore[attr-defined]
        assert len(turns) == 3
        spec = shard._spec._replace(path=str(tmp_path / "copy"))  # type: ignore[attr-defined]
        found = list(shard.examine_file(spec, True))
        assert not [item for item in found if isinstance(item, Problem)]
        assert found[0] == len(d)


def test_a_base_for_which_there_is_no_space_leaves_nothing_and_is_not_tried_at_once_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=1) as d:
        stop_keepers(d)
        d.update({number: bytes(1000) for number in range(200)})
        (shard,) = d._store.shards
        calls = 0

        def full(*args: Any) -> None:
            nonlocal calls
            calls += 1
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("rack.shard.lmdb.datafile.copy", full)
        shard._journalled._journal.base_size = 0  # type: ignore[attr-defined]
        with pytest.raises(StoreFullError):
            shard.shorten()
        assert not [file for file in os.listdir(tmp_path) if "-new" in file]
        shard.shorten()
        assert calls == 1
        monkeypatch.undo()
        shard._journalled._rests_until = 0  # type: ignore[attr-defined]
        shard.shorten()
        assert shard._journalled._journal.base_size  # type: ignore[attr-defined]
        expected = dict(d)
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == expected


def test_nothing_behind_a_hole_in_the_journals_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled.Journalling._make_base", lambda self, journal: None)
    with everysec(tmp_path / "d", shards=1) as d:
        stop_keepers(d)
        (shard,) = d._store.shards
        d.update({f"a{number}": number for number in range(3000)})
        monkeypatch.setattr(journaled, "_ROTATE_AT", 1)
        shard.shorten()
        d.update({f"b{number}": number for number in range(500)})
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    file = str(after) + "-0000.lmdb"
    first, second = generations(file, "journal")
    damaged = bytearray(Path(journal_path(file, first)).read_bytes())
    damaged[4096 + 2000] ^= 1
    Path(journal_path(file, first)).write_bytes(damaged)
    assert second == first + 1
    with pytest.raises(CorruptShardError, match="is damaged, and there is a later one"):
        PersistentDict(after).open()
    report = repair(after)
    assert not report.sound
    with PersistentDict[str, int](f"{after}-repaired") as d:
        assert not set(d) & {f"b{number}" for number in range(500)}


DERIVED: dict[str, Callable[[Any, Path], object]] = {
    "copy": lambda d, to: d.copy(name=to).close(),
    "copy of a snapshot": lambda d, to: d.snapshot().copy(name=to).close(),
    "backup": lambda d, to: d.backup(to),
    "union": lambda d, to: d.union([1], name=to).close(),
    "repair": lambda d, to: repair(d.name, to),
}


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("how", DERIVED)
def test_what_is_made_of_a_store_has_its_durability(how: str, durability: str, engine: str, tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "s", durability=durability, engine=engine, shards=2) as s:
        s.add(1)
        if how != "repair":
            DERIVED[how](s, tmp_path / "made")
    with PersistentSet[int](tmp_path / "s") as s:  # it is kept, though it was not asked for
        assert s._held is not None
        assert s._held.durability == durability
    if how == "repair":
        DERIVED[how](s, tmp_path / "made")
    assert Record.read(str(tmp_path / "made"))[:2] == ("", durability)
    with PersistentSet[int](tmp_path / "made") as made:
        assert made._held is not None
        assert made._held.durability == durability
        made.add(2)
    assert_sound(PersistentSet(tmp_path / "made"))
    assert journalfiles.is_begun(str(tmp_path / "made-0000.lmdb")) == (durability == "everysec" and engine == "lmdb")
