"""The threads of a store end with what they are for, also where an exception has kept that from being noted."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from rack import PersistentDict
from rack.shard.timed import Server
from rack.store import registry
from rack.store.keeper import Keeper
from rack.system import threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")


def _count() -> int:
    return len(os.listdir("/proc/self/task"))


def _wait_for(count: int) -> None:
    deadline = time.monotonic() + 5
    while _count() > count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_thread_of_a_keeper_that_is_forgotten_ends() -> None:
    before = _count()
    keeper = Keeper([])
    assert _count() == before + 1
    del keeper
    _wait_for(before)


def test_the_thread_of_a_server_that_is_forgotten_ends() -> None:
    before = _count()
    server = Server()
    assert server.run(5, int, "7") == 7
    assert _count() == before + 1
    del server
    _wait_for(before)


# Threads without memory


def never_begin(function: object, args: object) -> int:
    """Start a thread that has no memory to call the function: nothing of it is run, and the arguments are gone."""
    return 1


def test_a_keeper_is_stopped_whose_thread_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threads, "start_new_thread", never_begin)
        keeper = Keeper([])
    began = time.monotonic()
    for _ in range(2):
        keeper.stop(20)
    assert time.monotonic() - began < 10


def test_a_keeper_is_stopped_that_nobody_could_tell_of(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper([])
    monkeypatch.setattr(keeper, "_ended", SimpleQueue())
    keeper.stop(20)
    keeper.stop(20)


def test_a_keeper_goes_on_when_it_has_had_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    own = threading.get_ident()

    class Forgetful(SimpleQueue[Any]):
        fails = 3

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if threading.get_ident() != own and self.fails:
                self.fails -= 1
                raise MemoryError
            return super().get(block, timeout)

    monkeypatch.setattr("rack.store.keeper.SimpleQueue", Forgetful)
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 0.01)
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) < 20:
            raise MemoryError

    keeper = Keeper([work, work])
    deadline = time.monotonic() + 20
    while len(calls) < 20:
        assert time.monotonic() < deadline, "it has ended"
        time.sleep(0.01)
    keeper.stop(20)


def test_a_server_whose_thread_has_ended_gets_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    with monkeypatch.context() as patch:
        patch.setattr(threads, "start_new_thread", never_begin)
        with pytest.raises(TimeoutError):
            server.run(0.01, int, "7")
    assert server.run(20, int, "7") == 7


def test_what_rests_is_closed_though_the_thread_that_was_to_do_it_never_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_one(name: str) -> Any:
        handle = PersistentDict[str, int](tmp_path / name, shards=2).open()
        handle["a"] = 1
        opened = handle._held
        del handle
        assert opened in registry._resting
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_watching", [])
        patch.setattr(threads, "start_new_thread", never_begin)
        first = leave_one("a")
        patch.undo()
        second = leave_one("b")
        deadline = time.monotonic() + 20
        while registry._resting and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not {first, second} & registry._all
