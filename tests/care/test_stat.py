"""``rack.stat``: the figures are right, and looking at a store disturbs nobody and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet
from rack.care.stat import BALANCE
from rack.set_small import PersistentSet as SmallSet
from rack.shard.lmdb import figures as lmdb_figures
from rack.shard.lmdb import pages
from rack.store.lock import StoreLock
from tests.support.processes import Crew, Worker, hear, run, run_script, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]
linux = pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="needs a system that tells who has locks")


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    with Dict(tmp_path / "d", shards=2) as d:
        d.update((number, "x" * 50) for number in range(1000))
    return tmp_path / "d"


def state_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what changes when a file does; but for SQLite's index, in which its users have their locks."""
    return {
        file.name: (status.st_ino, status.st_size, status.st_mtime_ns)
        for file in folder.iterdir()
        for status in [file.stat()]
        if not file.name.endswith("-shm")
    }


@contextmanager
def worker_that(crew: Crew, work: Any, *args: object) -> Iterator[Worker]:
    """Give a process that has done the first part of its work, and goes on when the block ends."""
    worker = crew.start(work, *args)
    worker.hear()
    yield worker
    worker.tell()
    worker.result()


# The figures


def test_it_tells_what_the_store_is(path: Path, engine: str) -> None:
    files = list(path.parent.iterdir())
    found = rack.stat(path)
    assert found.bytes_apparent == sum(file.stat().st_size for file in files)
    assert found.bytes_allocated == sum(512 * file.stat().st_blocks for file in files)
    with Dict(path, flag="r") as d:
        assert (found.entries, found.shards) == (len(d), len(d.shards()))
        assert [each.entries for each in found.per_shard] == [len(shard) for shard in d.shards()]
        with_handle = d.stat()
        assert (with_handle.entries, with_handle.name, with_handle.id) == (found.entries, d.name, found.id)
        assert (d.engine, d.durability, d.serdes, d.key_serdes) == (engine, "everysec", "marshal", "canonical")
    assert (found.name, found.kind, found.engine, found.layout) == (str(path), "dict", engine, "direct")
    assert (found.durability, found.serdes, found.key_serdes, found.hash) == (
        *("everysec", "marshal"),
        *("canonical", "sha256"),
    )
    assert found.bytes_per_entry == found.bytes_allocated / 1000
    assert found.bytes_data == sum(file.stat().st_size for file in files if file.suffix == f".{engine}")
    assert found.largest_shard.entries + found.smallest_shard.entries == 1000
    assert found.smallest_shard.entries <= found.largest_shard.entries
    assert sum(found.balance) == 2
    assert found.clean
    assert found.last_sync == os.stat(f"{path}.rack-boot").st_mtime
    assert found.advice == ()


def test_all_keys_are_counted_and_none_of_racks_own(tmp_path: Path, engine: str) -> None:
    keys = [b"", b"\0", b"\1", b"k" * 511, b"k" * 600, b"k" * 5000, *(b"%d" % number for number in range(3000))]
    with PersistentDict[bytes, bytes](tmp_path / "d", serdes="bytes", shards=1) as d:
        assert d.stat().entries == 0
        assert d.stat().bytes_per_entry is None
        d.update(dict.fromkeys(keys, b"v" * 200))
        assert d.stat().entries == len(keys)
        d.delete_many(keys[:20])
        assert d.stat().entries == len(keys) - 20
        between = [b"\0%d" % number * 20 for number in range(200)]  # the records of LMDB's own, leaves apart
        d.update(dict.fromkeys(between, b"v"))
        assert d.stat().entries == len(keys) + 180
    assert rack.stat(tmp_path / "d").entries == len(keys) + 180


def test_a_small_set_has_no_table_of_long_keys(tmp_path: Path) -> None:
    with SmallSet[int](tmp_path / "s") as s:
        s.update(range(500))
        assert s.stat().entries == 500
        assert s.stat().layout == "small"


def test_free_space_is_counted(path: Path, engine: str) -> None:
    with Dict(path) as d:
        d.update((number, "y" * 3000) for number in range(1000))
        d.sync()
        full = d.stat()
        d.delete_many(range(1000))
        empty = d.stat()
    if engine == "sqlite3":
        assert full.bytes_free == 0
        assert empty.bytes_free > 0.9 * empty.bytes_data
    else:
        assert empty.bytes_free > full.bytes_free + 3_000_000
    assert rack.stat(path).bytes_free == sum(each.bytes_free for each in empty.per_shard)


def test_lmdbs_free_pages_are_those_in_its_lists_and_behind_the_last(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=1, durability="process") as d:
        for turn in range(20):
            d.update((number, f"{turn}" * 200) for number in range(300 * turn))
        d.delete_many(range(2000))
    (shard,) = rack.stat(tmp_path / "d").per_shard
    fd = os.open(tmp_path / "d-0000.lmdb", os.O_RDONLY)
    meta = pages.newest(pages.read_metas(fd))
    listed = sum(count for _, count in lmdb_figures._lists(fd, meta, True))
    assert listed == sum(count for _, count in lmdb_figures._lists(fd, meta, False)) > 50
    os.close(fd)
    assert shard.bytes_free == (listed * meta.page_size) + shard.bytes - (meta.last_page + 1) * meta.page_size


def test_what_is_in_the_journals_and_not_on_the_disk_is_told(path: Path, engine: str) -> None:
    with Dict(path) as d:
        d.update((number, "z") for number in range(500))
        found = d.stat()
        assert not found.clean
        assert found.bytes_journal > 0
        if engine == "lmdb":
            assert found.bytes_base > 0
            d.sync()
            synced = d.stat()
            assert synced.bytes_unsynced == 0
            assert synced.last_sync is not None
    assert rack.stat(path).clean
    assert rack.stat(path).bytes_unsynced in (0, None)


def test_functions_of_ones_own_are_not_needed(tmp_path: Path, engine: str) -> None:
    def dump(value: object) -> bytes:
        return repr(value).encode()

    with Dict(tmp_path / "d", serdes=(eval, dump), hash=lambda data: data[:8].rjust(8)) as d:
        d.update({"a": 1, "b" * 1000: 2})
    found = rack.stat(tmp_path / "d")
    assert (found.entries, found.serdes.partition(":")[0]) == (2, "custom")


def test_a_counter_counts_the_commits(path: Path) -> None:
    with Dict(path) as d:
        d["a"] = 0
        before = d.stat()
        for number in range(100):
            d["a"] = -number - 1
        after = d.stat()
    counted = [
        (new.commits or 0) - (old.commits or 0) for old, new in zip(before.per_shard, after.per_shard, strict=True)
    ]
    assert sorted(counted) == [0, 100]


# Nobody is disturbed


def test_it_changes_no_file_neither_at_rest_nor_in_use_nor_after_a_kill(path: Path) -> None:
    def check() -> None:
        before = state_of(path.parent)
        assert rack.stat(path).entries == 1000
        assert state_of(path.parent) == before

    check()
    with Crew() as crew:
        with worker_that(crew, write_and_wait, path):
            check()
        worker = crew.start(write_and_wait, path)
        worker.hear()
        worker.kill()
        check()


def write_and_wait(path: Path) -> None:
    with Dict(path, durability=None) as d:
        d[1] = "written"
        d.sync()
        tell()
        hear()


def test_it_waits_neither_for_a_writer_nor_for_one_who_opens_the_store(path: Path) -> None:
    with Crew() as crew:
        with worker_that(crew, hold_writers_off, path):
            assert run(lambda: rack.stat(path).entries, [()]) == [1000]
        lock = StoreLock(str(path))
        assert lock.claim()
        assert run(lambda: rack.stat(path).entries, [()]) == [1000]
        lock.close()


def hold_writers_off(path: Path) -> None:
    with Dict(path) as d:
        d[1] = "written"
        for shard in d._store.shards:
            shard.hold().close()
        tell()
        hear()
        for shard in d._store.shards:
            shard.let_go()


def test_the_engines_locks_of_this_very_process_are_kept(path: Path, engine: str) -> None:
    with Dict(path, durability="process") as d, d.snapshot():
        d[1] = 2
        for _ in range(2):
            rack.stat(path)
            d.stat()
        if os.path.exists("/proc/locks"):
            assert run_script(LOOKED, path) == f"() ({os.getpid()},)\n"
        if engine == "sqlite3":
            assert run_script(LOCKED, f"{path}-0000.sqlite3-shm") == "locked\n"


LOOKED = """
    import rack, sys
    found = rack.stat(sys.argv[1])
    print(found.dead_readers, found.oldest_snapshot.pids)
"""
LOCKED = """
    import fcntl, sys
    with open(sys.argv[1], "r+b") as index:
        try:
            fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)  # which whoever has it open has locked
        except OSError:
            print("locked")
"""


def test_a_forked_child_may_look_before_it_uses_the_store(path: Path) -> None:
    with Dict(path) as d:
        d[1] = "parent"
        assert run(lambda: (d.stat().entries, rack.stat(path).entries, repr(d).count("1000 entries")), [()]) == [
            (1000, 1000, 0)
        ]
        d[2] = "parent"
        assert len(d) == 1000


# Who uses it


@linux
def test_it_tells_who_has_the_store_open_and_for_what(path: Path) -> None:
    assert rack.stat(path).processes == ()
    with (
        Crew() as crew,
        worker_that(crew, write_and_wait, path) as writer,
        worker_that(crew, read_and_wait, path) as reader,
    ):
        users = {user.pid: user for user in rack.stat(path).processes or ()}
        assert {pid: user.mode for pid, user in users.items()} == {writer.pid: "write", reader.pid: "read"}
        assert all(user.command and (user.started or 0) > 1e9 for user in users.values())
        with Dict(path) as d:
            assert os.getpid() in {user.pid for user in d.stat().processes or ()}
    lock = StoreLock(str(path))
    assert lock.claim()
    assert [user.mode for user in rack.stat(path).processes or ()] == ["alone"]
    lock.close()


def read_and_wait(path: Path) -> None:
    with Dict(path, flag="r"):
        tell()
        hear()


@linux
def test_the_oldest_snapshot_and_what_it_holds_are_told(
    path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Crew() as crew, Dict(path) as d:
        assert d.stat().oldest_snapshot is None
        with worker_that(crew, take_snapshot, path) as worker:
            for turn in range(30):
                d.update((number, f"{turn}" * 20) for number in range(1000))
            found = d.stat()
            oldest = found.oldest_snapshot
            assert oldest is not None
            assert oldest.pids == (worker.pid,)
            assert oldest.behind >= 30
            assert oldest.age_at_most is not None
            assert (oldest.bytes_held or 0) > 500_000
            if engine == "lmdb":  # where it takes long to count what is held, that is counted which is not
                monkeypatch.setattr(lmdb_figures, "_MOST_LISTS", 25)
                again = d.stat().oldest_snapshot
                assert again is not None
                assert abs((again.bytes_held or 0) - (oldest.bytes_held or 0)) < 1 << 16
        assert d.stat().oldest_snapshot is None


def take_snapshot(path: Path) -> None:
    with Dict(path, flag="r") as d, d.snapshot() as then:
        tell()
        hear()
        assert len(then) == 1000


@linux
def test_dead_readers_are_told_and_gone_when_the_store_is_opened(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=2) as d:
        d.update((number, number) for number in range(1000))
    with Crew() as crew:
        worker = crew.start(take_snapshot, tmp_path / "d")
        worker.hear()
        assert rack.stat(tmp_path / "d").dead_readers == ()
        worker.kill()
    found = rack.stat(tmp_path / "d")
    assert found.dead_readers == (worker.pid,)
    assert any("dead reader" in sentence for sentence in found.advice)
    with Dict(tmp_path / "d") as d:
        assert d.stat().dead_readers == ()


@linux
def test_leftovers_of_killed_processes_are_told_and_nobody_elses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "d-anonymous-of-mine").touch()
    (path.parent / "dd-anonymous-0123456789ab.rack").touch()
    with Crew() as crew:
        worker = crew.start(copy_and_wait, path)
        left = worker.hear()
        assert rack.stat(path).leftovers == ()
        worker.kill()
    found = rack.stat(path)
    assert found.leftovers == (left,)
    assert any(left in sentence and "rack rm" in sentence for sentence in found.advice)
    assert rack.stat(path, leftovers=False).leftovers is None
    monkeypatch.setattr("rack.care.look._MOST_NAMES", 3)
    assert rack.stat(path).leftovers is None
    for file in path.parent.glob("*-anonymous-*"):
        file.unlink()


def copy_and_wait(path: Path) -> None:
    with Dict(path) as d, d.copy() as made:
        tell(made._path)
        hear()


def test_where_the_system_does_not_tell_it_is_not_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "other")
    with Dict(path) as d:
        found = d.stat()
    assert (found.processes, found.dead_readers, found.oldest_snapshot, found.leftovers) == (None, None, None, None)
    assert found.entries == 1000


def test_the_histogram_has_each_shard_once(tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "s", shards=16) as s:
        assert s.stat().balance == (0, 0, 0, 16, 0, 0, 0)
        s.update(range(20))
        found = s.stat()
        average = 20 / 16
        for low, high, count in zip((0.0, *BALANCE), (*BALANCE, 99.0), found.balance, strict=True):
            assert count == sum(low * average <= each.entries < high * average for each in found.per_shard)
