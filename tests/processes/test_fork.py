"""A handle works on in a forked child, and the child does no harm to its parent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, StoreDeletedError
from tests.support.processes import Crew, assert_sound, default_engine, hear, run, run_script, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

SHARDS = 4


@contextmanager
def busy(*jobs: Callable[[int], None]) -> Iterator[None]:
    """Run each job again and again in a thread; raise what any of them raised."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(job: Callable[[int], None]) -> None:
        number = 0
        try:
            while not stop.is_set():
                job(number)
                number += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert not errors, errors


def test_a_handle_works_in_the_child_while_threads_of_the_parent_are_busy(tmp_path: Path, long: bool) -> None:
    forks = 300 if long else 40
    with PersistentDict[Any, Any](tmp_path / "store", shards=SHARDS) as store:
        store.update((("fixed", number), number) for number in range(500))

        def read(number: int) -> None:
            assert store["fixed", number % 500] == number % 500

        def write(number: int) -> None:
            store["thread", number % 5000] = bytes(number % 3000)  # grows the shards

        def scan(number: int) -> None:
            assert sum(1 for key in store if key[0] == "fixed") == 500

        def work(number: int) -> None:
            assert store["fixed", number] == number
            store["child", number] = os.getpid()
            assert store.incr("children") == number + 1
            assert sum(1 for key in store if key[0] == "fixed") == 500

        with busy(read, write, scan):
            for number in range(forks):
                with Crew() as crew:
                    child = crew.start(work, number)
                    child.result()
                    assert store["child", number] == child.pid
        assert store["children"] == forks
    assert_sound(store)


def test_children_forked_at_once_by_busy_threads_all_work(tmp_path: Path, long: bool) -> None:
    with PersistentDict[str, int](tmp_path / "store", shards=2) as store:

        def fork(number: int) -> None:
            child = os.fork()
            if child == 0:
                try:
                    store.incr("children")
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            forked.append(child)

        forked: list[int] = []
        with busy(fork, fork, lambda number: store.incr("thread") and None):
            while len(forked) < (400 if long else 60):
                threading.Event().wait(0.01)
        assert store["children"] == len(forked)
    assert_sound(store)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_iteration_goes_on_on_both_sides_of_a_fork_and_sees_each_key_once(reverse: bool, tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "store", shards=SHARDS) as store:
        store.update(range(20_000))
        iterator = reversed(store) if reverse else iter(store)
        before = [next(iterator) for _ in range(5_000)]

        def work() -> list[int]:
            after = []
            for number in iterator:
                after.append(number)
                if len(after) % 100 == 0:
                    store.add(-len(after))
            return after

        with Crew() as crew:
            child = crew.start(work)
            mine = before + list(iterator)
            theirs = before + child.result()
        for seen in (mine, theirs):
            assert sorted(number for number in seen if number >= 0) == list(range(20_000))
            assert len(set(seen)) == len(seen)
    assert_sound(store)


_inherited: PersistentDict[Any, int]


def _count_word(number: int) -> int:
    _inherited.incr(f"word {number % 7}")
    return _inherited.setdefault(number, os.getpid())


def test_pool_workers_use_the_handle_they_inherit(tmp_path: Path) -> None:
    global _inherited
    with PersistentDict[Any, int](tmp_path / "store", shards=SHARDS) as _inherited:
        with get_context("fork").Pool(4) as pool:
            pids = pool.map(_count_word, range(2000), chunksize=10)
            _inherited.incr("parent")
            pool.close()
            pool.join()
        assert os.getpid() not in pids
        assert sum(_inherited[f"word {number}"] for number in range(7)) == 2000
        assert all(_inherited[number] == pid for number, pid in enumerate(pids))
    assert_sound(_inherited)


def test_a_grandchild_uses_the_handle_also_where_the_child_has_not(tmp_path: Path) -> None:
    with PersistentDict[str, str](tmp_path / "store", shards=SHARDS) as store:
        store["from"] = "parent"

        def grandchild() -> None:
            store["from"] += " grandchild"

        def child(used: bool) -> None:
            if used:
                store["from"] += " child"
            run(grandchild, [()])
            store["from"] += " child"

        run(child, [(False,)])
        assert store["from"] == "parent grandchild child"
        run(child, [(True,)])
        assert store["from"] == "parent grandchild child child grandchild child"
    assert_sound(store)


def test_writes_are_seen_at_once_by_parent_and_child(tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "store", shards=SHARDS) as store:

        def answer() -> None:
            while (number := hear()) >= 0:
                assert store["parent"] == number
                store["child"] = number
                tell(number)

        with Crew() as crew:
            child = crew.start(answer)
            for number in range(300):
                store["parent"] = number
                child.tell(number)
                assert child.hear() == number
                assert store["child"] == number
            child.tell(-1)
            child.result()
    assert_sound(store)


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)", "pass"])
def test_the_exit_of_a_child_does_no_harm(leave: str, tmp_path: Path) -> None:
    script = f"""
        import os, sys
        from rack import PersistentDict, PersistentSet
        store = PersistentDict(sys.argv[1], shards=4, engine=sys.argv[2]).open()
        store["a"] = 1
        nameless = PersistentSet(sys.argv[1] + "-set", engine=sys.argv[2]).open() | {{"x"}}
        closed = PersistentSet(sys.argv[1] + "-set").open() | {{"y"}}
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            assert store["a"] == 1
            store["b"] = 2
            assert set(nameless) == {{"x"}}
            {leave}
        else:
            closed.close()  # deletes it, while the child has a handle of it
            os.write(writer, b"x")
            assert os.waitpid(child, 0)[1] == 0
            assert set(nameless) == {{"x"}}
            store["c"] = 3
            assert dict(store) == dict(a=1, b=2, c=3), dict(store)
            store.check(), nameless.check()
        """
    run_script(script, tmp_path / "store", default_engine())
    assert {name.name for name in tmp_path.glob("*.rack")} == {"store.rack", "store-set.rack"}
    assert_sound(PersistentDict(tmp_path / "store"))


def test_a_nameless_store_is_deleted_by_its_owner_alone(tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "store", shards=2) as store:
        nameless = store | {1, 2, 3}

        def work() -> None:
            assert nameless.add(4)
            nameless.close()

        run(work, [()])
        assert set(nameless) == {1, 2, 3, 4}
        assert nameless.check() == 4
        nameless.close()
        assert list(tmp_path.glob("*anonymous*")) == []
    assert_sound(store)


def test_a_child_does_not_write_to_a_store_that_was_replaced_since_the_fork(tmp_path: Path) -> None:
    store = PersistentDict[str, str](tmp_path / "store", shards=2).open()
    store["who"] = "old"

    def work() -> None:
        hear()
        with pytest.raises(StoreDeletedError):
            store["who"] = "child"

    with Crew() as crew:
        child = crew.start(work)
        store.close()
        with PersistentDict[str, str](tmp_path / "store", flag="n") as new:
            new["who"] = "new"
            child.tell()
            child.result()
            assert dict(new) == {"who": "new"}
    assert_sound(new)
