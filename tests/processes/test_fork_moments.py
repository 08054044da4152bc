"""A fork may come at any moment: inside batches, inside operations of other threads, while stores open and close."""

from __future__ import annotations

import gc
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.store.manifest import Manifest
from tests.processes.test_fork import SHARDS, busy
from tests.support.processes import Crew, assert_sound, hear, run, tell
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


def test_a_batch_of_the_parent_is_written_by_the_parent_alone(tmp_path: Path) -> None:
    with PersistentDict[str, str](tmp_path / "store", shards=SHARDS) as store:
        with store.batch():
            store["held"] = "parent's"

            def work() -> None:
                assert "held" not in store
                store["child"] = "in the batch"
                tell()
                hear()

            def leave() -> None:
                with store.batch():
                    store["nested"] = "child's"
                store["after"] = "child's"

            with Crew() as crew:
                child = crew.start(work)
                child.hear()
                crew.start(leave).result()
                child.tell()
                child.result()
            assert store["held"] == "parent's"
            with PersistentDict[str, str](tmp_path / "store") as other:
                assert "held" not in other
        assert store["held"] == "parent's"
    assert_sound(store)


def test_a_child_forked_inside_a_batch_commits_its_own_writes_when_it_leaves_the_batch(tmp_path: Path) -> None:
    with PersistentDict[str, str](tmp_path / "store", shards=SHARDS) as store:

        def block() -> None:
            with store.batch():
                store["held"] = "parent's"
                child = os.fork()
                if child == 0:
                    store["own"] = "child's"
                    return
                assert os.waitpid(child, 0)[1] == 0
                assert store.get("own") == "child's"
                with PersistentDict[str, str](tmp_path / "store") as other:
                    assert "held" not in other

        parent = os.getpid()
        try:
            block()
        finally:
            if os.getpid() != parent:
                os._exit(0)
        assert dict(store) == {"held": "parent's", "own": "child's"}
    assert_sound(store)


def test_a_child_is_not_in_the_batches_of_other_threads_of_its_parent(tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "store", shards=SHARDS) as store:
        in_batch, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with store.batch():
                store["held"] = 1
                in_batch.set()
                leave.wait(60)

        def write_in_threads() -> None:  # which get the identifiers of the parent's threads
            threads = [threading.Thread(target=store.update, args=({f"bulk {n}": n},)) for n in range(3)]
            threads += [threading.Thread(target=store.__setitem__, args=(f"child {n}", n)) for n in range(3)]
            for thread in threads:
                thread.start()
                thread.join()
            with store.batch():
                store["child's batch"] = 1

        holder = threading.Thread(target=hold)
        holder.start()
        in_batch.wait(60)
        run(write_in_threads, [()], limit=20)
        assert "held" not in set(store)
        leave.set()
        holder.join()
        names = {f"{kind} {n}" for kind in ("bulk", "child") for n in range(3)}
        assert set(store) == {"held", "child's batch", *names}
    assert_sound(store)


def test_a_fork_while_other_threads_leave_batches_leaves_a_child_that_can_batch(tmp_path: Path, long: bool) -> None:
    with PersistentDict[Any, int](tmp_path / "store", shards=2) as store:

        def batches(number: int) -> None:
            with store.batch():
                for item in range(200):
                    store[number % 10, item] = item

        def work(number: int) -> None:
            with store.batch():
                store["child", number] = number

        with busy(batches, batches):
            for number in range(200 if long else 30):
                run(work, [(number,)], limit=20)
        assert all(store["child", number] == number for number in range(30))
    assert_sound(store)


def test_garbage_collected_inside_an_operation_does_not_stop_a_fork(tmp_path: Path) -> None:
    collect = threading.Event()
    inside = threading.Event()

    def loads(data: bytes) -> int:
        if collect.is_set():
            collect.clear()
            inside.set()
            threading.Event().wait(0.2)  # the other thread is in fork by now
            gc.collect()
        return int(data)

    with PersistentDict[str, int](tmp_path / "store", serdes=(loads, lambda value: b"%d" % value), shards=1) as store:
        store["n"] = 1
        cycle: list[Any] = [PersistentDict(tmp_path / "other", shards=1).open()]
        cycle.append(cycle)
        del cycle
        collect.set()
        thread = threading.Thread(target=store.incr, args=("n",), daemon=True)
        thread.start()
        inside.wait(60)

        def in_time() -> None:
            run(lambda: store.incr("n"), [()])
            thread.join(60)

        forker = threading.Thread(target=in_time, daemon=True)
        forker.start()
        forker.join(20)
        assert not forker.is_alive(), "deadlock between the collector and fork"
        assert store["n"] == 3
    gc.collect()
    assert_sound(store)


def test_fork_at_random_moments_of_opening_and_closing(tmp_path: Path, seed: int, long: bool) -> None:
    rng = random.Random(seed)
    kept = PersistentDict[str, int](tmp_path / "kept", shards=2).open()

    def open_and_close(number: int) -> None:
        with PersistentDict[str, int](tmp_path / f"store {number % 3}", shards=2) as store:
            store.incr("thread")

    with busy(open_and_close, open_and_close):
        for _ in range(150 if long else 25):
            threading.Event().wait(rng.uniform(0, 0.01))
            run(lambda: kept.incr("children"), [()], limit=20)
    kept.close()
    for name in ("kept", "store 0", "store 1", "store 2"):
        assert_sound(PersistentDict(tmp_path / name))


def test_a_container_collected_while_its_store_is_opened_again_does_not_close_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle: list[Any] = [PersistentDict[str, int](tmp_path / "store", shards=1).open()]
    cycle[0]["n"] = 1
    cycle.append(cycle)
    del cycle
    read = Manifest.read

    def collecting(path: str) -> Manifest:
        gc.collect()
        return read(path)

    monkeypatch.setattr(Manifest, "read", collecting)
    with PersistentDict[str, int](tmp_path / "store") as store:
        assert store["n"] == 1
    assert_sound(store)
