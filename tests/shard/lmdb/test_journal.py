"""The journals and bases of durability "everysec": what is there of them after a power failure."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.errors import StoreFullError
from rack.shard.lmdb import journal, journaled
from tests.support.damage import in_child
from tests.support.everysec import Store, everysec, fail_power, stop_keepers
from tests.support.processes import Crew, assert_sound, hear, run, tell


def change(d: Store, rng: random.Random) -> None:
    """Change the store in some way."""
    keys = [*range(50), *(f"long {number} " * 100 for number in range(5))]
    key = rng.choice(keys)
    choice = rng.randrange(12)
    if choice == 0:
        d.update({rng.choice(keys): rng.randbytes(rng.choice([1, 100, 1600, 9000])) for _ in range(rng.randrange(300))})
    elif choice == 1:
        d.pop(key, None)
    elif choice == 2:
        d.delete_many(rng.sample(keys, 10))
    elif choice == 3 and rng.random() < 0.2:
        d.clear()
    elif choice == 4:
        d.incr("count")
    elif choice == 5:
        d.setdefault(key, b"default")
    elif choice == 6 and len(d):
        d.popitem()
    elif choice == 7:
        d.transform(key, lambda value: (value or b"") + b"+", b"")
    else:
        d[key] = rng.randbytes(rng.choice([1, 100, 2000]))


@pytest.mark.parametrize("shards", [1, 3])
def test_whatever_was_synced_is_there_after_a_power_failure(
    shards: int, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    path = tmp_path / "d"
    for _ in range(4):
        with everysec(path, shards=shards) as d:
            for _ in range(150):
                change(d, rng)
            d.sync()
            expected = dict(d)
            after = fail_power(path, monkeypatch)
        path = after
        with PersistentDict(path) as d:
            assert dict(d) == expected
        assert_sound(PersistentDict(path))


def test_what_was_not_synced_is_lost_as_a_whole_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 1000)
    with everysec(tmp_path / "d", shards=1) as d:
        d["a"] = 1
        d.sync()
        d["a"] = 2
        d["b"] = 3
        lost = fail_power(tmp_path / "d", monkeypatch)
        kept = fail_power(tmp_path / "d", monkeypatch, synced=False)
    with PersistentDict(lost) as d:
        assert dict(d) == {"a": 1}
    monkeypatch.setattr("rack.system.boot.boot_id", lambda: kept.parent.name)
    with PersistentDict(kept) as d:
        assert dict(d) == {"a": 2, "b": 3}


def test_a_record_that_is_torn_ends_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(tmp_path / "d", shards=1, serdes="bytes") as d:
        for number in range(10):
            d[b"%d" % number] = b"value" * 100
        after = fail_power(tmp_path / "d", monkeypatch, synced=False)
    (file,) = after.parent.glob("*-journal-*")
    data = bytearray(file.read_bytes())
    at = data.index(b"value", data.index(b"7value"))
    data[at] ^= 1
    file.write_bytes(data)
    with PersistentDict(after, serdes="bytes") as d:
        assert sorted(d) == [b"%d" % number for number in range(7)]


@pytest.mark.parametrize("length", [0, 1, 60, 1 << 12, 1 << 40, (1 << 64) - 1])
def test_a_length_that_is_none_ends_the_journal(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(tmp_path / "d", shards=1, serdes="bytes") as d:
        for number in range(10):
            d[b"%d" % number] = b"value" * 100
        after = fail_power(tmp_path / "d", monkeypatch, synced=False)
    (file,) = after.parent.glob("*-journal-*")
    data = bytearray(file.read_bytes())
    at = 4096
    for _ in range(7):
        at += 24 + int.from_bytes(data[at : at + 8], "little")
    assert data[at : at + 8] != bytes(8) != data[at + 8 : at + 16]  # a record begins there
    data[at : at + 8] = length.to_bytes(8, "little")
    file.write_bytes(data)
    with PersistentDict(after, serdes="bytes") as d:
        assert sorted(d) == [b"%d" % number for number in range(7)]


def test_a_process_killed_between_journal_and_commit_leaves_nothing_that_others_then_contradict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"

    def die() -> None:
        with everysec(path, shards=1) as d:
            real = journal.Journal.append

            def append(self: Any, txn_id: int, body: bytes) -> bool:
                real(self, txn_id, body)
                os.kill(os.getpid(), signal.SIGKILL)
                return True

            journal.Journal.append = append  # type: ignore[method-assign]
            d["lost"] = 1

    with everysec(path, shards=1) as d:
        d["before"] = 0
        with Crew() as crew, pytest.raises(AssertionError, match="ended with -9"):
            crew.start(die).result()
        assert "lost" not in d
        d["after"] = 2
        d.sync()
        after = fail_power(path, monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == {"before": 0, "after": 2}


def test_a_commit_that_fails_is_not_done_after_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(tmp_path / "d", shards=1) as d:
        d["a"] = 1
        shard: Any = d._store.shards[0]
        real = shard._begin_write

        def begin() -> Any:
            class Failing:
                def __getattr__(self, name: str) -> Any:
                    return getattr(inner, name)

                def commit(self) -> None:
                    raise KeyboardInterrupt

            inner = real()
            return Failing()

        shard._begin_write = begin
        for write in (lambda: d.__setitem__("a", 2), lambda: d.add("b", 2), lambda: d.incr("a")):
            with pytest.raises(KeyboardInterrupt):
                write()
        shard._begin_write = real
        assert d["a"] == 1
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch, synced=False)
    with PersistentDict(after) as d:
        assert dict(d) == {"a": 1}


def _write_until_told(path: Path, number: int) -> int:
    with PersistentDict[Any, Any](path) as d:
        count = 0
        while count < 20_000:
            d[number, count % 1000] = count
            count += 1
            if not count % 100:
                d.update({(number, "bulk", key): bytes(500) for key in range(100)})
        return count


def test_journals_are_replaced_by_bases_while_processes_write(
    tmp_path: Path, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 100_000)
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 0.02)
    path = tmp_path / "d"
    with everysec(path, shards=2) as d:
        d.update({number: number for number in range(50)})  # so that it looks after both shards
        run(_write_until_told, [(path, number) for number in range(4)], limit=120)
        d.sync()
        generations = journal.generations(f"{path}-0000.lmdb", "base")
        assert generations[-1] > 2
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*-base-*"))) > 2:  # the keepers catch up
            assert time.monotonic() < deadline
            time.sleep(0.05)
        expected = dict(d)
        stop_keepers(d)  # what is copied is to be of one moment
        after = fail_power(path, monkeypatch)
    used = sum(file.stat().st_size for file in tmp_path.glob("d-*"))
    live = sum(file.stat().st_size for file in tmp_path.glob("d-*.lmdb"))
    assert used < 4 * live + (1 << 20)
    with PersistentDict(after) as d:
        assert dict(d) == expected
    assert_sound(PersistentDict(path))
    assert_sound(PersistentDict(after))


def test_a_journal_that_is_opened_anew_while_the_next_one_is_made_stays_the_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 10_000)
    with everysec(tmp_path / "d", shards=1) as d:
        stop_keepers(d)
        d.update({number: bytes(1000) for number in range(100)})
        shard: Any = d._store.shards[0]
        create = journaled.create

        def create_late(*args: Any) -> str:
            shard._journalled.open()  # as another thread's write does
            return create(*args)

        with monkeypatch.context() as patch:
            patch.setattr("rack.shard.lmdb.journaled.create", create_late)
            shard.shorten()
        d["after"] = 1
        shard.shorten()
        d["later"] = 2
        assert len(list(tmp_path.glob("d-*-journal-*"))) == 2  # now it was due again
        shard.keep(True)
        expected = dict(d)
        after = fail_power(tmp_path / "d", monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == expected
    assert_sound(PersistentDict(after))


def test_what_a_base_replaces_is_removed_by_others_if_its_maker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 10_000)
    with everysec(tmp_path / "d", shards=1) as d:
        stop_keepers(d)
        d.update({number: bytes(1000) for number in range(100)})

        def child() -> None:
            monkeypatch.setattr("rack.shard.lmdb.journalfiles.unlink", lambda path: os.kill(os.getpid(), 9))
            (shard,) = d._store.shards
            d["child"] = 1
            for _ in range(2):  # a new journal, and its base
                shard.keep(True)
                shard.shorten()

        assert in_child(child) == 9
        assert len(list(tmp_path.glob("*-base-*"))) == 2
        d._store.shards[0].keep(True)
        d._store.shards[0].shorten()
        assert len(list(tmp_path.glob("*-base-*"))) == 1
        assert len(list(tmp_path.glob("*-journal-*"))) == 1
        expected = dict(d)
        after = fail_power(tmp_path / "d", monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == expected
    assert_sound(PersistentDict(after))


def _write_and_be_killed(path: Path) -> None:
    with PersistentDict[Any, Any](path) as d:
        tell()
        for count in range(10**9):
            d[count % 100] = bytes(count % 3000)


def test_processes_killed_at_random_while_journals_rotate_lose_nothing_committed(
    tmp_path: Path, seed: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 30_000)
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 0.005)
    path = tmp_path / "d"
    for _ in range(100 if long else 6):
        with everysec(path, shards=2) as d, Crew() as crew:
            workers = [crew.start(_write_and_be_killed, path) for _ in range(3)]
            for worker in workers:
                worker.hear()
            time.sleep(rng.uniform(0.01, 0.2))
            for worker in workers:
                worker.kill()
            stop_keepers(d)
            d.sync()
            expected = dict(d)
            after = fail_power(path, monkeypatch)
        with PersistentDict(after) as d:
            # A write that was under way when its process was killed may have happened or not: one a shard.
            different = [d._route(d._dump_key(key)) for key in {*d, *expected} if d.get(key) != expected.get(key)]
            assert len(different) == len(set(different))
        assert_sound(PersistentDict(after))
        path = after


def test_a_forked_child_journals_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(tmp_path / "d", shards=2) as d:
        d["parent"] = 1

        def child() -> None:
            d["child"] = 2
            assert d._held is not None
            assert d._held._keepers
            d.sync()
            tell()
            hear()

        with Crew() as crew:
            worker = crew.start(child)
            worker.hear()
            d["parent"] = 3
            d.sync()
            after = fail_power(tmp_path / "d", monkeypatch)
            worker.tell()
            worker.result()
    with PersistentDict(after) as d:
        assert dict(d) == {"parent": 3, "child": 2}


def test_no_space_for_the_journal_is_an_error_and_nothing_has_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=1) as d:
        d["a"] = 1
        real = journal.datafile.extend

        def full(fd: int, size: int, new_size: int, path: str) -> None:
            if "-journal-" in path:
                raise StoreFullError(28, "no space", path)
            real(fd, size, new_size, path)

        monkeypatch.setattr(journal.datafile, "extend", full)
        with pytest.raises(StoreFullError):
            d["large"] = bytes(1 << 20)
        assert dict(d) == {"a": 1}
        monkeypatch.setattr(journal.datafile, "extend", real)
        d["large"] = bytes(1 << 20)
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == {"a": 1, "large": bytes(1 << 20)}
    assert_sound(PersistentDict(tmp_path / "d"))


def test_after_a_sync_that_failed_nothing_more_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with everysec(tmp_path / "d", shards=1) as d:
        d["a"] = 1

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(journaled, "sync_file", fail)
        with pytest.raises(OSError, match="Input/output"):
            d.sync()
        monkeypatch.undo()
        with pytest.raises(OSError, match="could not be synced"):
            d["b"] = bytes(1 << 20)
        assert dict(d) == {"a": 1}


def test_a_journal_that_was_longer_when_it_was_opened_is_written_to_as_it_is(tmp_path: Path) -> None:
    """Another process was just making it longer, and found no space: what is behind its end would be a SIGBUS."""

    def work() -> int:
        with everysec(tmp_path / "d", shards=1) as d:
            d["a"] = 1
            spec = d._store.shards[0]._spec
            path = journal.journal_path(spec.path, 1)
            size = os.path.getsize(path)
            os.truncate(path, size + (1 << 20))
            opened = journal.Journal.newest(spec)
            os.truncate(path, size)
            for number in range(3 * size // 1000):
                assert opened.append(1000 + number, bytes(1000))
            opened.close()
            return os.path.getsize(path) - size

    with Crew() as crew:
        assert crew.start(work).result() > 0
