"""A snapshot goes on showing what it showed: through growth, forks and deaths, while others write."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, NotOpenError, PersistentDict, PersistentSet, SnapshotLostError, StoreFullError
from rack.shard import shard_class
from rack.shard.lmdb import snapshot as lmdbsnapshot
from rack.shard.proxy import ShardProxy
from rack.store import instant
from tests.processes import Crew, assert_sound, default_engine, hear, run, tell, told
from tests.processes import engine as engine
from tests.test_fork import busy
from tests.test_growth import small_disk as small_disk
from tests.test_threads import run_threads

pytestmark = pytest.mark.usefixtures("engine")

Bytes = PersistentDict[bytes, bytes]
SHARDS = 3


def _made(path: Path, count: int = 2000, shards: int = SHARDS, **options: Any) -> Bytes:
    with Bytes(path, serdes="bytes", shards=shards) as store:
        store.update((b"%d" % number, b"%d " % number * (number % 40)) for number in range(count))
    return Bytes(path, **options)


def _overwrite(path: Path, writer: int) -> int:
    """Change, delete and add until told to stop: pages are freed and used again, and shards grow."""
    rng = random.Random(writer)
    rounds = 0
    with Bytes(path) as store:
        tell()
        while not told():
            rounds += 1
            store[b"%d" % rng.randrange(2000)] = rng.randbytes(rng.randrange(2000))
            store.pop(b"%d" % rng.randrange(2000), None)
            store[b"%d-%d" % (writer, rounds % 3000)] = rng.randbytes(rng.randrange(300))
    return rounds


def _leftovers(path: Path) -> list[str]:
    return [name for name in os.listdir(path.parent) if "-snapshot-" in name or "-anonymous-" in name]


def test_a_snapshot_does_not_change_while_four_processes_write(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    store = _made(path)
    with store, store.snapshot() as snapshot, Crew() as crew:
        before = dict(snapshot)
        writers = [crew.start(_overwrite, path, writer) for writer in range(4)]
        for writer in writers:
            writer.hear()
        until = time.monotonic() + (30 if long else 1)
        compared = 0
        while compared < 4 or time.monotonic() < until:
            assert dict(snapshot) == before
            assert snapshot.get_many(list(before)) == before
            compared += 1
            if compared == 2:  # this process writes too, and has to make shards larger
                store.update((b"more %d" % number, bytes(3000)) for number in range(3000))
        for writer in writers:
            writer.tell()
        assert sum(writer.result() for writer in writers) > 100
        assert dict(snapshot) == before
    assert not _leftovers(path)
    assert_sound(store)


def test_a_snapshot_outlives_growth_by_its_own_process_and_by_others(tmp_path: Path) -> None:
    path = tmp_path / "store"
    sizes = [0]

    def grow(writer: int) -> None:
        with Bytes(path) as store:
            store.update((b"%d-%d" % (writer, number), bytes(2000)) for number in range(2000))

    with _made(path) as store, store.snapshot() as first:
        before = dict(first)
        for writer in range(3):
            run(grow, [(writer,)])
            assert dict(first) == before
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            assert sizes[-1] > sizes[-2]
            with store.snapshot() as second:
                assert len(second) == len(store) == 2000 + 2000 * (writer + 1)
                store[b"new"] = bytes(10_000)  # adopts what the others have made larger
                grow(writer + 10)
                assert dict(first) == before
                assert b"new" not in second
                assert not any(key in second for key in (b"%d-1" % (writer + 10), b"new"))
                second.check()
            store.delete_many([b"%d-%d" % (writer + 10, number) for number in range(2000)] + [b"new"])
    assert not _leftovers(path)
    assert_sound(store)


def test_a_snapshot_outlives_forks_while_threads_are_busy(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    forks = 200 if long else 20
    with _made(path) as store, store.snapshot() as snapshot:
        before = dict(snapshot)
        keys = sorted(before)

        def read(number: int) -> None:
            key = keys[number % len(keys)]
            assert snapshot[key] == before[key]

        def scan(number: int) -> None:
            assert dict(snapshot) == before

        def write(number: int) -> None:
            store[b"%d" % (number % 2000)] = bytes(number % 3000)

        def take(number: int) -> None:
            with store.snapshot() as other:
                assert len(other) >= 2000

        def work(number: int) -> None:
            with pytest.raises(SnapshotLostError):
                snapshot.get(b"1")
            store[b"child %d" % number] = b"x"
            with store.snapshot() as own:
                assert own[b"child %d" % number] == b"x"
            if number % 2:
                snapshot.close()

        with busy(read, scan, write, take):
            for number in range(forks):
                with Crew() as crew:
                    crew.start(work, number).result()
        assert dict(snapshot) == before
    assert not _leftovers(path)
    assert_sound(store)


def test_a_fork_while_a_backup_is_made_hangs_neither_side(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    with _made(path, 20_000) as store:

        def back_up(number: int) -> None:
            store.backup(tmp_path / f"backup {number}")

        def write(number: int) -> None:
            store[b"%d" % (number % 2000)] = b"new"

        def work(number: int) -> None:
            assert len(store) == 20_000
            store[b"%d" % number] = b"child"
            store.backup(tmp_path / f"child {number}")

        with busy(back_up, write):
            for number in range(100 if long else 12):
                with Crew() as crew:
                    crew.start(work, number).result()
        made = [Path(name).stem for name in os.listdir(tmp_path) if name.endswith(".rack")]
        assert len(made) > 12
        for name in made:
            with Bytes(tmp_path / name) as backup:
                assert len(backup) == 20_000
            assert_sound(backup)
    assert not _leftovers(path)


def test_other_threads_write_while_a_shard_is_copied(tmp_path: Path) -> None:
    if default_engine() != "lmdb":
        pytest.skip("SQLite copies through a connection of its own")
    with _made(tmp_path / "store", shards=1) as store, store.snapshot() as snapshot:
        ours, theirs = os.pipe()

        def copy() -> None:
            with open(theirs, "wb") as file:
                snapshot._store.shards[0]._read(lmdbsnapshot._copy, file)  # type: ignore[attr-defined]

        copying = threading.Thread(target=copy)
        copying.start()
        assert os.read(ours, 1)  # it is in the middle, and waits for a reader
        assert store.add(b"11", b"x") is False
        assert store.add(b"new", b"x")
        store[b"1"] = b"y"
        assert store.pop(b"absent", None) is None
        assert store.pop(b"new") == b"x"
        assert copying.is_alive()
        with open(ours, "rb") as rest:
            assert len(rest.read()) > 100_000
        copying.join()
    assert_sound(store)


def test_an_error_that_is_kept_over_a_fork_does_not_keep_the_snapshot_in_the_child(tmp_path: Path) -> None:
    """LMDB: a transaction that something refers to in the child would be aborted there, and its slot be free."""
    path = tmp_path / "store"
    with _made(path) as store, store.snapshot() as snapshot:
        before = dict(snapshot)
        errors = []

        def fail(*args: object) -> None:
            raise ZeroDivisionError  # what the traceback keeps are the arguments: the transaction, for one

        for shard in snapshot._store.shards:
            with pytest.raises(ZeroDivisionError) as caught:
                shard._read(fail)  # type: ignore[attr-defined]
            errors.append(caught.value)
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                store[b"child"] = b"x"
                status = 0
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        run(_rewrite, [(path,)])
        assert dict(snapshot) == before
    assert_sound(store)


def _rewrite(path: Path) -> None:
    """Write each key many times: pages that no snapshot needs are used again and again."""
    with Bytes(path) as store:
        for number in range(20):
            store.update((b"%d" % key, bytes([number]) * 50) for key in range(2000))


def _hold_snapshot(path: Path) -> None:
    with Bytes(path) as store:
        store.snapshot()
        snapshot = store.snapshot()
        tell(len(snapshot))
        hear()


def test_space_is_used_again_once_the_holder_of_a_snapshot_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def used() -> int:
        return sum(file.stat().st_size for file in tmp_path.iterdir())

    with _made(path, shards=1) as store, Crew() as crew:
        holder = crew.start(_hold_snapshot, path)
        assert holder.hear() == 2000
        _rewrite(path)
        holder.kill()
        for _ in range(3):
            _rewrite(path)
        allowed = max(used() * 1.1, (20 << 20) * (default_engine() == "sqlite3"))  # SQLite's log, of up to 16 MiB
        for _ in range(10):
            _rewrite(path)
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
    with _made(path) as store, Crew() as crew:
        writers = [crew.start(_overwrite, path, writer) for writer in range(2)]
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


def test_many_snapshots_at_once_each_show_their_own_moment(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def work(writer: int) -> None:
        with Bytes(path) as store, contextlib.ExitStack() as stack:
            taken = []
            for number in range(30):
                store[b"%d" % writer] = b"%d" % number
                store[b"%d-%d" % (writer, number)] = bytes(1000)
                taken.append(stack.enter_context(store.snapshot()))
            for _ in range(2):
                for number, snapshot in enumerate(taken):
                    assert snapshot[b"%d" % writer] == b"%d" % number
                    own = [key for key in snapshot if key.startswith(b"%d-" % writer)]
                    assert len(own) == number + 1
                store.update((b"more %d" % number, bytes(2000)) for number in range(500))

    _made(path, 0)
    run(work, [(writer,) for writer in range(4)])
    assert not _leftovers(path)
    assert_sound(Bytes(path))


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

    _made(path)
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
    with _made(path) as store, Crew() as crew:
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
    with _made(path, timeout=0.3) as store, Crew() as crew:
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

    with _made(path) as store, store.snapshot() as snapshot:
        live = store._store.shards[0]
        assert type(live) is shard_class(default_engine())
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
    assert not _leftovers(path)
    assert_sound(store)


def test_a_snapshot_on_a_full_disk_is_right_or_lost(small_disk: Path) -> None:
    path = small_disk / "store"
    (small_disk / "other").write_bytes(bytes(1 << 20))

    def work() -> None:
        with _made(path, 3000) as store, store.snapshot() as snapshot:
            before = dict(snapshot)
            with pytest.raises(StoreFullError):  # noqa: PT012
                for number in range(10_000):
                    store[b"more %d" % number] = bytes(2000)
            with contextlib.suppress(SnapshotLostError):
                assert dict(snapshot) == before

    run(work, [()])
    assert not _leftovers(path)
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


def test_threads_share_a_snapshot_while_the_store_grows(tmp_path: Path) -> None:
    with _made(tmp_path / "store") as store, store.snapshot() as snapshot:
        before = dict(snapshot)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                assert dict(snapshot) == before

        def write() -> None:
            try:
                for number in range(3000):
                    store[b"more %d" % number] = bytes(2000)
            finally:
                done.set()

        jobs: list[Callable[[], object]] = [read, read, write]
        run_threads(*jobs)
        assert dict(snapshot) == before
    assert_sound(store)
