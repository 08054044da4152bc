"""A day of processes that open a store, write, close, fork and crash, in a minute: nothing leaks, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from tests.support.processes import Crew, assert_sound, private_memory
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, Any]
SHARDS = 2
CRASHERS, STEADY = 4, 2


def _cycle(path: Path, name: str, rng: random.Random, turn: int) -> None:
    """Open the store in some way, do something, and close it."""
    if rng.random() < 0.2:
        with Dict(path, flag="r") as store:
            assert len(store) >= 0
            return
    with Dict(path, timeout=30 if rng.random() < 0.1 else None) as store:
        store.incr(name)
        store[f"place {rng.randrange(200)}"] = bytes(rng.randrange(3000))
        if turn % 7 == 0:
            store.update((f"place {number}", b"bulk") for number in rng.sample(range(200), 50))
        if turn % 11 == 0:
            store.delete_many(f"place {number}" for number in range(100))
        if turn % 13 == 0:
            child = os.fork()
            if not child:
                store.incr(name)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            store.incr(name, -1)


def _crash_again_and_again(path: Path, number: int, until: float, seed: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Run generations of a process that ends by SIGKILL most times; return the bounds of what each has counted."""
    rng = random.Random(seed + number)
    bounds, cycles = {}, 0
    while time.monotonic() < until:
        name = f"crasher {number} {len(bounds)}"
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            threading.Timer(rng.uniform(0.01, 0.3), os.kill, (os.getpid(), signal.SIGKILL)).start()
            chance = random.Random(rng.random())
            for turn in range(1, 1000):
                with Dict(path) as store:
                    store.incr(name)
                os.write(write, b"x")
                _cycle(path, "others", chance, turn)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            done = len(pipe.read())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)
        bounds[name] = (done, done + 1)
        cycles += 2 * done
    return bounds, cycles


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def _steady(path: Path, number: int, until: float, seed: int) -> int:
    """Open and close all the time in one process; return how often."""
    rng = random.Random(seed - number)
    name = f"steady {number}"
    for turn in range(1, 30):
        _cycle(path, name, rng, turn)
    descriptors, threads = _descriptors(), threading.active_count()
    memory = private_memory() if os.path.exists("/proc/self/status") else 0
    turn = 30
    while time.monotonic() < until:
        _cycle(path, name, rng, turn)
        turn += 1
    time.sleep(0.2)  # the thread of a store with a time limit ends when it is collected
    assert _descriptors() == descriptors
    assert threading.active_count() <= threads
    if memory:
        assert private_memory() - memory < 16 << 20
    return turn


@pytest.mark.timeout(400)
def test_a_day_of_opening_closing_forking_and_crashing_leaks_nothing_and_counts_exactly(
    tmp_path: Path, seed: int, long: bool
) -> None:
    path = tmp_path / "store"
    with Dict(path, shards=SHARDS) as store:
        store["others"] = 0
    with Dict(path) as store:
        assert len(store) == 1  # all shards are open
        files = set(os.listdir(tmp_path))
    before = set(os.listdir(tmp_path))
    until = time.monotonic() + (60 if long else 3)
    with Crew() as crew:
        crashers = [crew.start(_crash_again_and_again, path, number, until, seed) for number in range(CRASHERS)]
        steady = [crew.start(_steady, path, number, until, seed) for number in range(STEADY)]
        crashed = [worker.result(180) for worker in crashers]
        cycles = sum(worker.result(180) for worker in steady) + sum(count for _, count in crashed)
    with Dict(path) as store:
        assert len(store) > 0
        assert set(os.listdir(tmp_path)) == files
        for bounds, _ in crashed:
            for name, (least, most) in bounds.items():
                assert least <= store.get(name, 0) <= most, name
        assert len(store) < 210 + sum(len(bounds) for bounds, _ in crashed)
        readers = _readers(store)
        assert readers <= 8, readers
    assert set(os.listdir(tmp_path)) == before
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 16 << 20
    print(f"{cycles} times opened and closed, {sum(len(bounds) for bounds, _ in crashed)} processes crashed")
    assert cycles > (1440 if long else 20)  # a day, once a minute
    assert_sound(store)


def _readers(store: Dict) -> int:
    """Return how many slots of LMDB's reader tables are taken."""
    assert store._held is not None
    environments = [getattr(shard, "_env", None) for shard in store._held.shards]
    return max((env.readers().count("\n") for env in environments if env is not None), default=0)
