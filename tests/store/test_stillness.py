"""When no operation is under way in a process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rack import PersistentDict
from rack.store import registry
from rack.store.stillness import still
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, int]


def test_a_process_that_does_nothing_is_still(tmp_path: Path) -> None:
    with still(0.1) as found:
        assert found == "still"
    with Dict(tmp_path / "d", shards=3) as store, Dict(tmp_path / "e", shards=2, timeout=1):
        with still(0.1) as found:
            assert found == "still"
        store["a"] = 1
        assert store["a"] == 1


def test_operations_of_other_threads_are_waited_for_and_held_off(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=2) as store:
        going, ended = threading.Event(), threading.Event()
        counts: list[int] = []

        def work() -> None:
            while not ended.is_set():
                counts.append(store.incr("a"))
                going.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert going.wait(20)
        for _ in range(20):
            with still(20) as found:
                assert found == "still"
                before = len(counts)
                time.sleep(0.005)
                assert len(counts) <= before + 1  # of one that had its answer already
            assert going.wait(20)
        ended.set()
        thread.join(20)
        assert store["a"] == counts[-1] == len(counts)


def test_an_operation_of_this_thread_is_not_waited_for(tmp_path: Path) -> None:
    found: list[str] = []

    class Addend:
        def __radd__(self, number: int) -> int:
            started = time.monotonic()
            with still(5) as stillness:
                found.append(stillness)
            assert time.monotonic() - started < 2
            return number + 1

    with Dict(tmp_path / "d", shards=1) as store:
        store["a"] = 1
        store.incr("a", Addend())  # type: ignore[arg-type]
        with registry.guard(), still(5) as stillness:
            found.append(stillness)
    assert found == ["busy", "busy"]


def test_one_that_takes_long_is_busy_and_one_that_waits_for_another_process_waits(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=1) as store:
        store["a"] = 1
        entered, go_on = threading.Event(), threading.Event()

        class Slow:
            def __radd__(self, number: int) -> int:
                entered.set()
                assert go_on.wait(20)
                return number + 1

        thread = threading.Thread(target=store.incr, args=("a", Slow()))
        thread.start()
        assert entered.wait(20)
        with still(0.05) as found:
            assert found == "busy"
        go_on.set()
        thread.join(20)

    def stop_inside() -> None:
        class Stopping:
            def __radd__(self, number: int) -> int:
                os.kill(os.getpid(), signal.SIGSTOP)
                return number + 1

        with Dict(tmp_path / "d") as same:
            same.incr("a", Stopping())  # type: ignore[arg-type]

    with Crew() as crew:
        worker = crew.prepare(stop_inside)
        worker.ready()
        with Dict(tmp_path / "d") as store:
            worker.go()
            os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
            thread = threading.Thread(target=store.incr, args=("a",))
            thread.start()
            time.sleep(0.2)
            with still(0.05) as found:
                assert found == "waiting"
            os.kill(worker.pid, signal.SIGCONT)
            thread.join(20)
            with still(20) as found:
                assert found == "still"
            worker.result()
            assert store["a"] == 4
