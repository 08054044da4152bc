"""Threads share one handle; ``timeout=`` limits how long an operation waits for another process."""

from __future__ import annotations

import contextlib
import marshal
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rack import LockTimeoutError, PersistentDict, PersistentSet
from tests.support.processes import Crew, Worker, assert_sound, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine


def run_threads(*jobs: Callable[[], object], limit: float = 60) -> None:
    """Run each job in a thread, all at once; raise what any of them raises."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> None:
        try:
            barrier.wait(limit)
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit)
    assert not any(thread.is_alive() for thread in threads), f"threads hang; errors of the others: {errors}"
    if errors:
        raise errors[0]


@pytest.mark.usefixtures("engine")
def test_threads_read_and_write_one_handle_while_the_map_grows(tmp_path: Path, seed: int) -> None:
    fixed = {f"fixed {number}": bytes([number]) * 2000 for number in range(100)}
    with PersistentDict[str, bytes](tmp_path / "store", shards=2) as store:
        store.update(fixed)
        done = threading.Event()
        written: dict[str, bytes] = {}

        def write(thread: int) -> None:
            rng = random.Random(seed + thread)
            for number in range(250):  # 8 MiB, from 64 KiB a shard
                key, value = f"{thread} {number}", rng.randbytes(rng.choice([10, 1000, 8000, 30_000]))
                store[key] = written[key] = value

        def read(thread: int) -> None:
            rng = random.Random(seed - thread)
            while not done.is_set():
                key = f"fixed {rng.randrange(100)}"
                assert store[key] == fixed[key]
                assert key in store
                assert store.get_many([key]) == {key: fixed[key]}
                if rng.random() < 0.02:
                    assert fixed.keys() <= set(store)
                    assert len(store) >= 100

        def write_all() -> None:
            try:
                run_threads(*(lambda thread=thread: write(thread) for thread in range(4)))
            finally:
                done.set()

        run_threads(write_all, *(lambda thread=thread: read(thread) for thread in range(8)))
        assert dict(store) == fixed | written
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_one_winner_among_threads(tmp_path: Path) -> None:
    wins: list[int] = []
    with PersistentSet[int](tmp_path / "set", shards=2) as seen, PersistentDict[str, int](tmp_path / "dict") as counts:

        def work() -> None:
            for number in range(300):
                counts.incr("all")
                if seen.add(number):
                    wins.append(number)

        run_threads(*[work] * 8)
        assert sorted(wins) == list(range(300))
        assert counts["all"] == 8 * 300
    assert_sound(seen)
    assert_sound(counts)


@pytest.mark.usefixtures("engine")
def test_threads_that_open_and_close_one_handle_at_once_leave_it_closed(tmp_path: Path) -> None:
    for _ in range(20):
        store = PersistentDict[str, int](tmp_path / "store", shards=8)

        def work() -> None:
            for _ in range(3):
                with store:  # noqa: B023 - the threads end before the next turn
                    store.incr("n")  # noqa: B023

        run_threads(*[work] * 8)
        assert store.closed
    assert_sound(store)
    with store:
        assert store["n"] == 20 * 8 * 3
    with PersistentDict[str, int](tmp_path / "store", flag="n") as store:  # refused if anything were left open
        assert len(store) == 0


# Timeouts


class _Addend:
    """What waits for the test when it is added: that happens inside the write transaction of ``incr``."""

    def __radd__(self, number: int) -> int:
        tell()
        hear()
        return number + 1


def _hold_writers(path: Path, key: str) -> None:
    with PersistentDict[str, int](path) as store:
        store.incr(key, _Addend())


@pytest.fixture
def stopped(tmp_path: Path, engine: str) -> Iterator[Worker]:
    """A process that was stopped inside a write to the only shard of the store."""
    with PersistentDict[str, int](tmp_path / "store", shards=1) as store:
        store["before"] = 1
    with Crew() as crew:
        worker = crew.start(_hold_writers, tmp_path / "store", "held")
        worker.hear()
        worker.kill(signal.SIGSTOP)
        yield worker


def _patient_writer(path: Path) -> None:
    with PersistentDict[str, int](path) as store:
        assert store["base"] == 1
        tell()
        hear()
        store["waited"] = 1


@pytest.mark.usefixtures("engine")
def test_a_write_that_timed_out_has_not_happened_and_does_not_happen_later(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, int](path, shards=1, timeout=0.5) as store, Crew() as crew:
        store["base"] = 1

        patient = crew.start(_patient_writer, path)
        patient.hear()
        holder = crew.start(_hold_writers, path, "held")
        holder.hear()
        holder.kill(signal.SIGSTOP)
        patient.tell()
        operations: list[Callable[[], object]] = [
            lambda: store.__setitem__("late", 1),
            lambda: store.add("late", 1),
            lambda: store.incr("base"),
            lambda: store.pop("base"),
            lambda: store.update(late=1),
        ]
        for operation in operations:
            started = time.monotonic()
            with pytest.raises(LockTimeoutError, match=r"0\.5 s") as caught:
                operation()
            assert 0.4 < time.monotonic() - started < 5
            assert isinstance(caught.value, TimeoutError)
        assert patient.is_silent(0.1)
        holder.kill(signal.SIGCONT)
        holder.tell()
        holder.result()
        patient.result()
        for _ in range(60):  # the abandoned request is still before us, for a moment
            with contextlib.suppress(LockTimeoutError):
                assert store.incr("after") == 1
                break
        time.sleep(0.2)
        assert dict(store) == {"base": 1, "held": 1, "waited": 1, "after": 1}
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_stopped_writer_that_is_killed_holds_up_nobody(stopped: Worker, tmp_path: Path) -> None:
    def write() -> None:
        with PersistentDict[str, int](tmp_path / "store") as store:
            store["waited"] = 1

    with Crew() as crew:
        writers = [crew.start(write) for _ in range(3)]
        assert all(writer.is_silent(0.2) for writer in writers)
        stopped.kill()
        assert [writer.result(20) for writer in writers] == [None] * 3
    with PersistentDict[str, int](tmp_path / "store") as store:
        assert dict(store) == {"before": 1, "waited": 1}
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, int](path, shards=1) as store:
        store["before"] = 1

    def read() -> None:
        with PersistentDict[str, int](path, flag="r") as store:
            assert store["before"] == 1
            tell()
            hear()
            assert (dict(store), len(store)) == ({"before": 1}, 1)
            tell()
            hear()

    with Crew() as crew:
        reader = crew.start(read)
        reader.hear()
        holder = crew.start(_hold_writers, path, "held")
        holder.hear()
        holder.kill(signal.SIGSTOP)
        reader.tell()
        reader.hear(20)
        holder.kill(signal.SIGCONT)
        holder.tell()
        holder.result()
        reader.tell()
        reader.result()
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_handle_whose_close_timed_out_can_be_closed_later(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = PersistentDict[str, int](path, shards=1, timeout=0.3).open()
    store.update((str(number), number) for number in range(20))

    with Crew() as crew:
        holder = crew.prepare(_hold_writers, path, "held")
        holder.ready()
        assert store["1"] == 1  # SQLite opens anew after a fork
        holder.go()
        holder.hear()
        with pytest.raises(LockTimeoutError):
            store["0"] = -1
        with pytest.raises(LockTimeoutError):
            store.close()
        holder.tell()
        holder.result()
    time.sleep(0.3)
    store.close()
    assert store.closed
    with store:
        assert store["0"] == 0
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_threads_that_share_a_handle_with_a_timeout_are_all_served(tmp_path: Path) -> None:
    for turn in range(10):
        with PersistentDict[str, int](tmp_path / "store", shards=1, timeout=20) as store:
            run_threads(*[lambda: store.incr("n")] * 8)
            assert store["n"] == 8 * (turn + 1)
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_an_operation_that_is_itself_slow_is_done_and_said_to_be_done_whatever_its_time_limit(tmp_path: Path) -> None:
    limit = 0.1
    is_slow = False

    def dumps(value: int) -> bytes:
        if is_slow:  # inside the transaction, with incr
            time.sleep(5 * limit)
        return marshal.dumps(value)

    with PersistentDict[str, int](tmp_path / "d", serdes=(marshal.loads, dumps), shards=1, timeout=limit) as d:
        for count in range(1, 4):  # the first has a thread of its own on LMDB, the others need not wait
            is_slow = True
            assert d.incr("a") == count
            is_slow = False
            assert d["a"] == count


@pytest.mark.usefixtures("engine")
def test_a_thread_of_a_forked_child_opens_a_store_that_the_parent_has_open(tmp_path: Path) -> None:
    def in_child() -> None:
        def use() -> None:
            with PersistentDict[str, int](tmp_path / "d") as other:
                other["child"] = other["parent"] + 1
                found.append(dict(other))

        found: list[dict[str, int]] = []
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(30)
        assert found == [{"parent": 1, "child": 2}]
        d["inherited"] = 3

    with PersistentDict[str, int](tmp_path / "d") as d:
        d["parent"] = 1
        with Crew() as crew:
            crew.start(in_child).result()
        assert dict(d) == {"parent": 1, "child": 2, "inherited": 3}
