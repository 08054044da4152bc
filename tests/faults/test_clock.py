"""The wall clock may jump to and fro in every process: nothing depends on it."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, PersistentDict
from tests.support.processes import Crew, assert_sound, hear, run, tell
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, Any]


def _shake_the_clock(seed: int) -> None:
    """Have ``time.time`` in this process go back and forward by years, from call to call."""
    rng, plain = random.Random(seed), time.time
    time.time = lambda: plain() + rng.uniform(-1e9, 1e9)
    time.time_ns = lambda: int(time.time() * 1e9)


class _Addend:
    def __radd__(self, number: int) -> int:
        tell()
        hear()
        return number + 1


def test_processes_whose_clocks_jump_lose_nothing_and_wait_as_long_as_they_should(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "store"

    def work(number: int) -> None:
        _shake_the_clock(seed + number)
        for turn in range(10):
            with Dict(path, shards=2, timeout=20 if number % 2 else None) as store:
                for _ in range(20):
                    store.incr("count")
                store[f"{number} {turn}"] = bytes(10_000)
                with store.batch():
                    store[f"batch {number} {turn}"] = turn
                with store.copy() as copy:
                    assert f"{number} {turn}" in copy

    run(work, [(number,) for number in range(4)])
    with Dict(path) as store:
        assert store["count"] == 4 * 10 * 20
        assert len(store) == 1 + 2 * 40
    assert_sound(store)


def test_a_time_limit_is_kept_while_the_clock_jumps(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "store"
    with Dict(path, shards=1) as store:
        store["a"] = 1

    def hold() -> None:
        _shake_the_clock(seed)
        with Dict(path) as store:
            store.incr("a", _Addend())

    def give_up() -> list[float]:
        _shake_the_clock(seed + 1)
        waits = []
        store = Dict(path, timeout=0.2)
        for _ in range(5):
            started = time.monotonic()
            with contextlib.suppress(LockTimeoutError):
                with store:
                    store["late"] = 1
                raise AssertionError("it did not wait")
            waits.append(time.monotonic() - started)
            with contextlib.suppress(LockTimeoutError):
                store.close()
        tell(waits)
        hear()
        while not store.closed:
            with contextlib.suppress(LockTimeoutError):
                store.close()
        return waits

    with Crew() as crew:
        holder = crew.start(hold)
        holder.hear()
        other = crew.start(give_up)
        assert all(0.15 < wait < 20 for wait in other.hear())
        holder.tell()
        holder.result()
        other.tell()
        other.result()
    with store:
        assert dict(store) == {"a": 2}
    assert_sound(store)
