"""What may be in the way of a snapshot: holders that die, writers that stop, forks, a full disk, a store removed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, NotOpenError, PersistentSet, SnapshotLostError, StoreFullError
from rack.shard import shard_class
from rack.shard.proxy import ShardProxy
from rack.store import instant
from tests.container.test_snapshots import Bytes, filled, leftovers, overwrite, rewrite
from tests.processes.test_fork import busy
from tests.processes.test_threads import run_threads
from tests.shard.test_growth import small_disk as small_disk
from tests.support.processes import Crew, assert_sound, default_engine, hear, run, tell
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


def test_a_fork_while_a_backup_is_made_hangs_neither_side(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    with filled(path, 20_000) as store:

        def back_up(number: int) -> None:
            store.backup(tmp_path / f"backup {number}")

        def write(number: int) -> None:
            store[b"%d" % (number % 2000)] = b"new"

        def work(number: int) -> None:
            assert len(store) == 20_000
            store[b"%d" % number] = b"child"
            store.backup(tmp_path / f"child {number}")

        with busy(back_up, write):
            for number in range(100 if long else 8):
                with Crew() as crew:
                    crew.start(work, number).result()
        made = [Path(name).stem for name in os.listdir(tmp_path) if name.endswith(".rack")]
        assert len(made) > 8
        for name in made:
            with Bytes(tmp_path / name) as backup:
                assert len(backup) == 20_000
            assert_sound(backup)
    assert not leftovers(path)


def _hold_snapshot(path: Path) -> None:
    with Bytes(path) as store:
        store.snapshot()
        snapshot = store.snapshot()
        tell(len(snapshot))
        hear()


def test_space_is_used_again_once_the_holder_of_a_snapshot_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def used() -> int:
        """Return the size of the files, but for journals and bases, which follow their own rules."""
        files = [file for file in tmp_path.iterdir() if "-journal-" not in file.name and "-base-" not in file.name]
        return sum(file.stat().st_size for file in files)

    with filled(path, shards=1) as store, Crew() as crew:
        holder = crew.start(_hold_snapshot, path)
        assert holder.hear() == 2000
        rewrite(path)
        holder.kill()
        for _ in range(3):
            rewrite(path)
        allowed = max(used() * 1.1, (20 << 20) * (default_engine() == "sqlite3"))  # SQLite's log, of up to 16 MiB
        for _ in range(10):
            rewrite(path)
        assert used() <= allowed
        with store.snapshot() as snapshot:
            assert set(snapshot.values()) == {bytes([19]) * 50}
    assert_sound(store)


def _take_snapshots(path: Path) -> None:
    with Bytes(path) as store:
        tell()
        while True:
            with store.snapshot() as snapshot:
                assert len(snapshot)


def test_nothing_stays_locked_when_who_takes_snapshots_is_killed(tmp_path: Path, long: bool, seed: int) -> None:
    path = tmp_path / "store"
    rng = random.Random(seed)
    with filled(path) as store, Crew() as crew:
        writers = [crew.start(overwrite, path, writer) for writer in range(2)]
        for writer in writers:
            writer.hear()
        for _ in range(200 if long else 15):
            taker = crew.start(_take_snapshots, path)
            taker.hear()
            time.sleep(rng.uniform(0, 0.05))
            taker.kill()
            store[b"0"] = b"mine"  # hangs if a lock is left
        for writer in writers:
            writer.tell()
            assert writer.result() > 10
    assert_sound(store)


def test_snapshots_writes_and_forks_in_threads_of_many_processes_never_wait_in_a_circle(
    tmp_path: Path, long: bool
) -> None:
    path = tmp_path / "store"
    seconds = 30 if long else 1.5

    def work(process: int) -> None:
        store = Bytes(path, timeout=20 if process == 2 else None)
        until = time.monotonic() + seconds
        with store:

            def take() -> None:
                while time.monotonic() < until:
                    with store.snapshot() as snapshot:
                        assert len(snapshot) >= 2000

            def write() -> None:
                number = 0
                while time.monotonic() < until:
                    number += 1
                    store[b"%d" % (number % 2000)] = bytes(number % 2500)

            def fork() -> None:
                while time.monotonic() < until:
                    child = os.fork()
                    if not child:
                        with contextlib.suppress(BaseException), store.snapshot() as snapshot:
                            os._exit(0 if len(snapshot) >= 2000 else 1)
                        os._exit(2)
                    assert os.waitpid(child, 0)[1] == 0
                    time.sleep(0.02)

            run_threads(take, take, write, write, fork, limit=seconds + 60)

    filled(path)
    run(work, [(process,) for process in range(3)], limit=seconds + 90)
    assert_sound(Bytes(path))


# Writer locks


class _Restless(ShardProxy):
    """A shard that seems to change whenever it is looked at."""

    _number = 0

    def version(self) -> object:
        self._number += 1
        return self._number


def _stop_in_a_write(path: Path, number: int) -> None:
    with Bytes(path) as store:
        tell()
        hear()
        shard = store._store.shards[number]
        shard.hold().close()
        tell()
        hear()
        shard.let_go()


def test_a_writer_that_was_stopped_is_not_in_the_way_of_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with filled(path) as store, Crew() as crew:
        writer = crew.start(_stop_in_a_write, path, 1)
        writer.hear()
        # As after any write: on LMDB the first snapshot of a shard waits for its writer if this process never wrote to
        # it. On SQLite the shard is opened again after the fork, which waits as well.
        store.delete_many(b"absent %d" % key for key in range(100))
        writer.tell()
        writer.hear()
        writer.kill(signal.SIGSTOP)
        with store.snapshot() as snapshot:
            assert len(snapshot) == 2000
            store[next(key for key in snapshot if store._route(key) is store._store.shards[2])] = b"new"
        store.backup(tmp_path / "backup")
        writer.kill(signal.SIGCONT)
        writer.tell()
        writer.result()
    assert_sound(store)
    assert_sound(Bytes(tmp_path / "backup"))


def test_with_a_timeout_it_gives_up_and_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with filled(path, timeout=0.3) as store, Crew() as crew:
        writer = crew.start(_stop_in_a_write, path, 1)
        writer.hear()
        # As after any write: on LMDB the first snapshot of a shard waits for its writer if this process never wrote to
        # it. On SQLite the shard is opened again after the fork, which waits as well.
        store.delete_many(b"absent %d" % key for key in range(100))
        writer.tell()
        writer.hear()
        shards = [_Restless(shard) for shard in store._store.shards]  # so their writers have to be held off
        begun = time.monotonic()
        with pytest.raises(LockTimeoutError):
            instant.take(shards, 0.3)
        assert 0.2 < time.monotonic() - begun < 5
        for number in (0, 2):
            key = next(
                key for key in (b"%d" % n for n in range(2000)) if store._route(key) is store._store.shards[number]
            )
            store[key] = b"new"
        writer.tell()
        writer.result()
        for snapshot in instant.take(shards, 5):
            snapshot.close()
        store[b"1"] = b"new"
    assert_sound(store)


# What goes wrong


def test_a_snapshot_that_finds_no_space_for_its_copy_is_lost_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"

    def fail(snapshot: Any, path: str) -> None:
        with open(path, "xb") as file:
            file.write(bytes(5000))
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with filled(path) as store, store.snapshot() as snapshot:
        live = store._store.shards[0]
        assert isinstance(live, shard_class(default_engine()))
        monkeypatch.setattr(type(snapshot._store.shards[0]), "_write_copy", fail)
        if default_engine() == "lmdb":
            store.update((b"more %d" % number, bytes(3000)) for number in range(3000))
        run(lambda: None, [()])
        for use in (lambda: dict(snapshot), lambda: snapshot[b"1"], lambda: len(snapshot), lambda: b"1" in snapshot):
            with pytest.raises(SnapshotLostError, match="No space left"):
                use()
        monkeypatch.undo()
        with pytest.raises(SnapshotLostError):
            snapshot.backup(tmp_path / "backup")
        store[b"1"] = b"goes on"
        with store.snapshot() as other:
            assert other[b"1"] == b"goes on"
    assert sorted({name.split(".")[0].split("-")[0] for name in os.listdir(tmp_path)}) == ["store"]
    assert not leftovers(path)
    assert_sound(store)


def test_a_snapshot_on_a_full_disk_is_right_or_lost(small_disk: Path) -> None:
    path = small_disk / "store"
    (small_disk / "other").write_bytes(bytes(1 << 20))

    def work() -> None:
        with filled(path, 3000) as store, store.snapshot() as snapshot:
            before = dict(snapshot)
            with pytest.raises(StoreFullError):  # noqa: PT012
                for number in range(10_000):
                    store[b"more %d" % number] = bytes(2000)
            with contextlib.suppress(SnapshotLostError):
                assert dict(snapshot) == before

    run(work, [()])
    assert not leftovers(path)
    (small_disk / "other").unlink()
    with Bytes(path) as store:
        store[b"more 0"] = b"goes on"
        assert all(b"%d" % number in store for number in range(3000))
    assert_sound(store)


def test_a_snapshot_of_a_store_that_was_removed(tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "store", shards=2) as source:
        source.update(range(100))
        made = source - {1}
        snapshot = made.snapshot()
        made.close()  # which deletes it
        with pytest.raises((SnapshotLostError, NotOpenError)):
            list(snapshot)
        snapshot.close()
    assert_sound(source)
