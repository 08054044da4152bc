"""A process stopped (SIGSTOP) where it holds a lock: others wait or give up in time, and nobody is misled."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rack import LockTimeoutError, PersistentDict, PersistentSet
from tests.support.processes import Crew, Worker, assert_sound, default_engine, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, Any]
Set = PersistentSet[str]
BEFORE = {"a": 1, "b": 2, "long" * 200: 3}
TIMEOUT = 0.15


def stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class Addend:
    """Stops its process when it is added: that is inside the write transaction of ``incr``."""

    def __radd__(self, number: int) -> int:
        stop_here()
        return number + 1


def _incr(path: Path) -> None:
    with Dict(path) as store:
        store.incr("held", Addend())


def _stop_before(module: Any, name: str) -> None:
    """Have this process stop, once, before it calls a function."""
    plain = getattr(module, name)

    def stopping(*args: Any, **options: Any) -> Any:
        setattr(module, name, plain)
        stop_here()
        return plain(*args, **options)

    setattr(module, name, stopping)


def _grow(path: Path) -> None:
    with Dict(path) as store:
        store.pop("held", None)  # by then it is put down that it writes
        _stop_before(os, "pwrite")
        store["held"] = bytes(300_000)


def _open(path: Path) -> None:
    _stop_before(lmdb, "open")
    _stop_before(sqlite3, "connect")
    with Dict(path) as store:
        store["held"] = 1


def _make(path: Path) -> None:
    _stop_before(os, "rename")
    with Dict(path, shards=1) as store:
        store["held"] = 1


@contextmanager
def stopped(function: Callable[[Path], None], path: Path) -> Iterator[Worker]:
    """Run a function in a process until it stops; let it go on and end when the block ends."""
    with Crew() as crew:
        worker = crew.start(function, path)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
        yield worker
        os.kill(worker.pid, signal.SIGCONT)
        worker.result()


@contextmanager
def in_time() -> Iterator[None]:
    """What is in this block gives up, no sooner and not much later than it should."""
    started = time.monotonic()
    with pytest.raises(LockTimeoutError) as caught:
        yield
    assert isinstance(caught.value, TimeoutError)
    assert TIMEOUT * 0.9 < time.monotonic() - started < 10


@contextmanager
def patient(store: Any) -> Iterator[Any]:
    """Use a store with a time limit, which what is still waiting may let closing exceed, for a moment."""
    store.open()
    try:
        yield store
    finally:
        until = time.monotonic() + 60
        while not store.closed:
            try:
                store.close()
            except LockTimeoutError:
                if time.monotonic() > until:
                    raise


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The name of a store of one shard, with a few entries."""
    with Dict(tmp_path / "store", shards=1) as store:
        store.update(BEFORE)
    with Set(tmp_path / "set", shards=1) as elements:
        elements.update(BEFORE)
    return tmp_path / "store"


def assert_in_the_end(path: Path, expected: dict[str, Any]) -> None:
    time.sleep(0.1)  # for what should not happen any more
    with Dict(path) as store:
        assert dict(store) == expected
    assert_sound(store)


DICT_WRITES: dict[str, Callable[[Dict], object]] = {
    "d[k] = v": lambda d: d.__setitem__("late", 1),
    "d[k] = v, long": lambda d: d.__setitem__("late" * 200, 1),
    "del": lambda d: d.__delitem__("a"),
    "add": lambda d: d.add("late", 1),
    "setdefault": lambda d: d.setdefault("late", 1),
    "pop": lambda d: d.pop("long" * 200),
    "popitem": lambda d: d.popitem(),
    "incr": lambda d: d.incr("a"),
    "compare_and_set": lambda d: d.compare_and_set("a", 1, 7),
    "transform": lambda d: d.transform("a", lambda value: 7),
    "update": lambda d: d.update(late=1),
    "delete_many": lambda d: d.delete_many(["a", "b"]),
    "clear": lambda d: d.clear(),
}
SET_WRITES: dict[str, Callable[[Set], object]] = {
    "add": lambda s: s.add("late"),
    "add of what is there": lambda s: s.add("a"),
    "discard": lambda s: s.discard("a"),
    "remove": lambda s: s.remove("a"),
    "pop": lambda s: s.pop(),
    "add_many": lambda s: s.add_many(["late"]),
    "filter_new": lambda s: list(s.filter_new(["late"])),
    "discard_many": lambda s: s.discard_many(["a"]),
    "update": lambda s: s.update(["late"]),
    "|=": lambda s: s.__ior__({"late"}),
    "clear": lambda s: s.clear(),
}


def test_every_write_that_times_out_says_so_and_never_happens(path: Path) -> None:
    """...whether the writer before it goes on in the end or not."""
    with patient(Dict(path, timeout=TIMEOUT)) as store, stopped(_incr, path):
        for write in DICT_WRITES.values():
            with in_time():
                write(store)
        with in_time(), store.batch() as batch:
            batch["late"] = 1
            del batch["a"]
    assert_in_the_end(path, BEFORE | {"held": 1})


def _incr_of_set(path: Path) -> None:
    # A set has no operation that runs the user's code in a transaction.
    with Set(path) as store:
        assert store._held is not None

        def change(value: bytes | None) -> None:
            stop_here()

        store._held.shards[0].modify(b"zz", change)


def test_every_write_to_a_set_that_times_out_says_so_and_never_happens(path: Path) -> None:
    name = path.with_name("set")
    with patient(Set(name, timeout=TIMEOUT)) as store, stopped(_incr_of_set, name):
        for write in SET_WRITES.values():
            with in_time():
                write(store)
    time.sleep(0.1)
    with Set(name) as store:
        assert set(store) == set(BEFORE)
    assert_sound(store)


def test_without_a_timeout_writers_wait_and_all_happens_in_the_end(path: Path) -> None:
    def write(number: int) -> None:
        with Dict(path) as store:
            assert store.incr(f"written {number}") == 1

    with Crew() as crew:
        with stopped(_incr, path):
            writers = [crew.start(write, number) for number in range(4)]
            assert all(writer.is_silent(0.2) for writer in writers)
        for writer in writers:
            writer.result()
    assert_in_the_end(path, BEFORE | {"held": 1} | {f"written {number}": 1 for number in range(4)})


def test_reads_go_on_and_see_nothing_of_the_write_under_way(path: Path) -> None:
    def read(**options: Any) -> None:
        with Dict(path, **options) as store:
            for _ in range(2):
                assert dict(store) == BEFORE
                assert store["a"] == 1
                assert store.get("held") is None
                assert "held" not in store
                assert len(store) == len(BEFORE)
                assert store.get_many(BEFORE) == BEFORE
                assert store == BEFORE
                tell()
                hear()

    with Crew() as crew:
        readers = [crew.start(read, *()) for _ in range(2)]
        for reader in readers:
            reader.hear()
        with stopped(_incr, path):
            late = crew.start(lambda: read(flag="r"))
            late.hear(20)
            if default_engine() == "lmdb":  # and one that opens it for writing waits only when it writes
                crew.start(read).hear(20)
            for reader in readers:
                reader.tell()
                reader.hear(20)
        for reader in readers:
            reader.tell()
            reader.result()  # SQLite waits for the writer when it is closed
    assert_in_the_end(path, BEFORE | {"held": 1})


STOPS = {"in a write": _incr, "in opening": _open, "in growth": _grow}


@pytest.mark.parametrize("where", STOPS)
def test_opening_with_a_timeout_ends_in_time_whatever_a_stopped_process_holds(where: str, path: Path) -> None:
    if where == "in growth" and default_engine() != "lmdb":
        pytest.skip("SQLite grows its files itself")
    with stopped(STOPS[where], path):
        for _ in range(3):
            if where == "in a write" and default_engine() == "lmdb":
                with Dict(path, timeout=TIMEOUT) as store:  # it need not even wait
                    assert dict(store) == BEFORE
            else:
                with patient(Dict(path, timeout=TIMEOUT)) as store, in_time():
                    dict(store)  # opens its shards
        with Dict(path, flag="r", timeout=TIMEOUT) as store:
            assert dict(store) == BEFORE
    held = bytes(300_000) if where == "in growth" else 1
    assert_in_the_end(path, BEFORE | {"held": held})


def test_making_a_store_that_a_stopped_process_is_making_ends_in_time(tmp_path: Path) -> None:
    with stopped(_make, tmp_path / "new"), in_time():
        Dict(tmp_path / "new", timeout=TIMEOUT).open()
    assert_in_the_end(tmp_path / "new", {"held": 1})


def test_a_write_that_has_to_wait_for_the_growth_of_a_stopped_process_gives_up_in_time(path: Path) -> None:
    if default_engine() != "lmdb":
        pytest.skip("SQLite grows its files itself")
    with patient(Dict(path, timeout=TIMEOUT)) as store, stopped(_grow, path):
        with in_time():
            store["late"] = bytes(300_000)
        with in_time():
            store.update(late=bytes(300_000))
    assert_in_the_end(path, BEFORE | {"held": bytes(300_000)})


def test_closing_with_a_timeout_ends_in_time_and_can_be_tried_again(path: Path) -> None:
    store = Dict(path, timeout=TIMEOUT)
    with Crew() as crew:
        worker = crew.prepare(_incr, path)
        worker.ready()
        with store:  # after the fork, which would close SQLite's connection
            assert store["a"] == 1
            worker.go()
            os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
            store.open()
            if default_engine() == "sqlite3":
                store.close()
                with in_time():
                    store.close()
                assert not store.closed
                assert store["a"] == 1
                store.open()
            os.kill(worker.pid, signal.SIGCONT)
            worker.result()
            store.close()
    assert store.closed
    assert_in_the_end(path, BEFORE | {"held": 1})


def test_other_threads_go_on_while_one_opens_a_store_in_which_a_process_is_stopped(path: Path) -> None:
    with stopped(_incr, path) as worker:
        opened = threading.Event()

        def open_it() -> None:
            with Dict(path) as store:
                assert store["a"] == 1
                opened.set()

        thread = threading.Thread(target=open_it)
        thread.start()
        turns = 0
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            turns += 1
            time.sleep(0.001)
        assert turns > 20
        assert opened.is_set() == (default_engine() == "lmdb")
        os.kill(worker.pid, signal.SIGCONT)
        thread.join(30)
        assert opened.is_set()
    assert_in_the_end(path, BEFORE | {"held": 1})
