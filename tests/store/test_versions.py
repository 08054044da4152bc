"""A shard's version differs after every commit, whatever is between: snapshots of several shards rest on that."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.shard.base import Shard, Snapshot
from rack.shard.proxy import ShardProxy
from rack.store.instant import take
from tests.support.processes import assert_sound, run
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Store = PersistentDict[bytes, bytes]
THERE = [(b"deleted", b"1"), (b"deleted too", b"1"), (b"popped", b"1"), (b"put", b"1")]
COMMITS: dict[str, Callable[[Shard], object]] = {
    "put": lambda shard: shard.put(b"new", b"1"),
    "put again": lambda shard: shard.put(b"put", b"2"),
    "long value": lambda shard: shard.put(b"put", bytes(5000)),
    "long key": lambda shard: shard.put(b"k" * 2000, b"1"),
    "add": lambda shard: shard.add(b"new", b"1"),
    "modify": lambda shard: shard.modify(b"put", lambda value: b"3"),
    "transact": lambda shard: shard.transact(lambda view: (view.put(b"new", b"3"), view.delete(b"deleted"))),
    "put_many": lambda shard: shard.put_many([(b"new", b"1")]),
    "add_many": lambda shard: shard.add_many([(b"new", b"1")]),
    "change_many": lambda shard: shard.change_many([(b"new", b"1")], [b"deleted"]),
    "delete": lambda shard: shard.delete(b"deleted"),
    "pop": lambda shard: shard.pop(b"popped"),
    "delete_many": lambda shard: shard.delete_many([b"deleted", b"deleted too"]),
    "pop_first": lambda shard: shard.pop_first(),
    "clear": lambda shard: shard.clear(),
}


def _nothing(store: Store) -> None:
    pass


def _fork(store: object) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _fork_that_writes(store: Store) -> None:
    child = os.fork()
    if not child:
        try:
            store[b"child"] = os.urandom(4)
            store.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _reopen(store: Store) -> None:
    store.close()
    store.open()


def _write_elsewhere(store: Store) -> None:
    run(_write, [(store.name,)])


def _write(name: str) -> None:
    with Store(name, serdes="bytes") as other:
        other[b"other"] = os.urandom(4)


BETWEEN = (_nothing, _fork, _fork_that_writes, _reopen, _write_elsewhere)


@pytest.mark.parametrize("between", BETWEEN, ids=lambda each: each.__name__.strip("_"))
def test_each_commit_has_a_version_that_none_before_had(tmp_path: Path, between: Callable[[Store], None]) -> None:
    seen: set[Any] = set()
    store = Store(tmp_path / "store", serdes="bytes", shards=1).open()

    def shard() -> Shard:
        assert store._held is not None
        return store._held.shards[0]

    with closing(store):
        for commit in COMMITS.values():
            shard().clear()
            shard().put_many(THERE)
            seen.add(shard().version())
            between(store)
            commit(shard())
            assert shard().version() not in seen
            seen.add(shard().version())
    assert_sound(Store(tmp_path / "store", serdes="bytes"))


class Moving(ShardProxy):
    """A shard whose snapshot is taken just after something happened, once."""

    def __init__(self, inner: Shard, happen: Callable[[], None]) -> None:
        super().__init__(inner)
        self._happen: Callable[[], None] | None = happen

    def snapshot(self) -> Snapshot:
        happen, self._happen = self._happen, None
        if happen is not None:
            happen()
        return super().snapshot()


@pytest.mark.parametrize("between", BETWEEN[:3], ids=lambda each: each.__name__.strip("_"))
@pytest.mark.parametrize("commits", [0, 1, 2])
def test_a_change_beside_a_fork_is_noticed_while_a_snapshot_is_taken(
    tmp_path: Path, between: Callable[[Store], None], commits: int
) -> None:
    with Store(tmp_path / "store", serdes="bytes", shards=2) as store:
        assert store._held is not None
        one, other = store._held.shards
        one.put(b"a", b"first")
        between(store)
        for _ in range(commits):  # so many has the connection made before
            one.put(b"a", b"mine")

        def move() -> None:
            between(store)
            for _ in range(max(commits, 1)):
                one.put(b"a", b"moved")
            other.put(b"b", b"moved")

        snapshots = take([one, Moving(other, move)], None)
        assert [snapshots[0].get(b"a"), snapshots[1].get(b"b")] == [b"moved", b"moved"]
        for snapshot in snapshots:
            snapshot.close()


def _snapshots_beside_forks(path: Path, count: int) -> list[int]:
    """Move money between two shards, and fork, in threads; return the sums in snapshots that are taken meanwhile."""
    warnings.simplefilter("ignore")  # Python's, that threads and forks do not go together
    over = threading.Event()
    sums = set()
    with PersistentDict[str, int](path) as bank:

        def transfer() -> None:
            while not over.is_set():
                bank.incr("a", -1)
                bank.incr("b", 1)

        def fork() -> None:
            while not over.is_set():
                _fork(bank)

        threads = [threading.Thread(target=work) for work in (transfer, fork)]
        for thread in threads:
            thread.start()
        for _ in range(count):
            with bank.snapshot() as snapshot:
                sums.add(snapshot["a"] + snapshot["b"])
        over.set()
        for thread in threads:
            thread.join()
    return sorted(sums)


def test_snapshots_are_of_one_instant_in_a_process_that_forks(tmp_path: Path, long: bool) -> None:
    with PersistentDict[str, int](tmp_path / "bank", shards=4) as bank:
        bank.update(a=1000, b=1000)
        assert bank._route(bank._dump_key("a")) is not bank._route(bank._dump_key("b"))
    (sums,) = run(_snapshots_beside_forks, [(tmp_path / "bank", 5000 if long else 10)], limit=600 if long else 60)
    assert set(sums) <= {1999, 2000}  # the one is what is on its way
    assert_sound(PersistentDict(tmp_path / "bank"))
