"""A snapshot goes on showing what it showed: through growth, forks and deaths, while others write."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, SnapshotLostError
from rack.shard.lmdb import snapshot as lmdbsnapshot
from tests.processes.test_fork import busy
from tests.processes.test_threads import run_threads
from tests.shard.test_growth import small_disk as small_disk
from tests.support.processes import Crew, assert_sound, default_engine, run, tell, told
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Bytes = PersistentDict[bytes, bytes]
SHARDS = 3


def filled(path: Path, count: int = 2000, shards: int = SHARDS, **options: Any) -> Bytes:
    with Bytes(path, serdes="bytes", shards=shards) as store:
        store.update((b"%d" % number, b"%d " % number * (number % 40)) for number in range(count))
    return Bytes(path, **options)


def overwrite(path: Path, writer: int) -> int:
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


def leftovers(path: Path) -> list[str]:
    return [name for name in os.listdir(path.parent) if "-snapshot-" in name or "-anonymous-" in name]


def test_a_snapshot_does_not_change_while_four_processes_write(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    store = filled(path)
    with store, store.snapshot() as snapshot, Crew() as crew:
        before = dict(snapshot)
        writers = [crew.start(overwrite, path, writer) for writer in range(4)]
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
    assert not leftovers(path)
    assert_sound(store)


def test_a_snapshot_outlives_growth_by_its_own_process_and_by_others(tmp_path: Path) -> None:
    path = tmp_path / "store"
    sizes = [0]

    def grow(writer: int) -> None:
        with Bytes(path) as store:
            store.update((b"%d-%d" % (writer, number), bytes(2000)) for number in range(2000))

    with filled(path) as store, store.snapshot() as first:
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
    assert not leftovers(path)
    assert_sound(store)


def test_a_snapshot_outlives_forks_while_threads_are_busy(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    forks = 200 if long else 20
    with filled(path) as store, store.snapshot() as snapshot:
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
    assert not leftovers(path)
    assert_sound(store)


def test_other_threads_write_while_a_shard_is_copied(tmp_path: Path) -> None:
    if default_engine() != "lmdb":
        pytest.skip("SQLite copies through a connection of its own")
    with filled(tmp_path / "store", shards=1) as store, store.snapshot() as snapshot:
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


def rewrite(path: Path) -> None:
    """Write each key many times: pages that no snapshot needs are used again and again."""
    with Bytes(path) as store:
        for number in range(20):
            store.update((b"%d" % key, bytes([number]) * 50) for key in range(2000))


def test_an_error_that_is_kept_over_a_fork_does_not_keep_the_snapshot_in_the_child(tmp_path: Path) -> None:
    """LMDB: a transaction that something refers to in the child would be aborted there, and its slot be free."""
    path = tmp_path / "store"
    with filled(path) as store, store.snapshot() as snapshot:
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
        run(rewrite, [(path,)])
        assert dict(snapshot) == before
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

    filled(path, 0)
    run(work, [(writer,) for writer in range(4)])
    assert not leftovers(path)
    assert_sound(Bytes(path))


def test_threads_share_a_snapshot_while_the_store_grows(tmp_path: Path) -> None:
    with filled(tmp_path / "store") as store, store.snapshot() as snapshot:
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


def test_syncing_a_snapshot_does_nothing(tmp_path: Path) -> None:
    with filled(tmp_path / "store") as store, store.snapshot() as snapshot:
        snapshot.sync()
        assert not snapshot.closed
