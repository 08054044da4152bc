"""``kill -9`` of processes that fork, copy, back up, look at snapshots or just open a store that others write."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from tests.support.processes import Crew, Worker, assert_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, Any]
Acknowledge = Callable[[int], None]
FIXED = {f"fixed {number}": bytes([number]) * (100 if number % 9 else 5000) for number in range(100)}


def _fork(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    """Write in a forked child and in its parent, by turns and at once."""
    number = 0
    while True:
        child = os.fork()
        if not child:
            store[f"{name} {number}"] = number
            os._exit(0)
        store[f"{name} {number + 1}"] = number + 1
        assert os.waitpid(child, 0)[1] == 0
        number += 2
        acknowledge(number)


def _batch(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        with store.batch() as batch:
            for at in range(number, number + 100):
                batch[f"{name} {at}"] = at
        number += 100
        acknowledge(number)


def _open(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    store.close()
    number = 0
    while True:
        with store:
            store[f"{name} {number}"] = number
        number += 1
        acknowledge(number)


def _copy(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        store.copy(name=f"{store.name}-made-{name}-{number}").close()
        number += 1
        acknowledge(number)


def _back_up(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        store.backup(f"{store.name}-made-{name}-{number}")
        number += 1
        acknowledge(number)


def _look(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    while True:
        with store.snapshot() as then:
            first = dict(then)
            time.sleep(0.001)
            assert dict(then) == first
            assert FIXED.items() <= first.items()


def _combine(store: Dict, name: str, acknowledge: Acknowledge) -> None:
    while True:
        with store.keys() & FIXED.keys() as shared:
            assert len(shared) == len(FIXED)


WRITERS = [_fork, _batch, _open]
MAKERS = [_copy, _back_up]
ROLES = [*WRITERS, *MAKERS, _look, _combine]


def _play(role: Callable[..., None], path: Path, name: str) -> None:
    log = os.open(path.with_name(f"log-{name}"), os.O_WRONLY | os.O_CREAT, 0o600)
    with Dict(path) as store:
        role(store, name, lambda count: os.pwrite(log, b"%10d" % count, 0))


def _count(path: Path, stop: Path) -> int:
    """What a process does that is not killed: it must never wait for long, nor see an error."""
    done, slowest = 0, 0.0
    with Dict(path) as store:
        while not stop.exists():
            started = time.monotonic()
            store.incr("count")
            slowest = max(slowest, time.monotonic() - started)
            done += 1
            time.sleep(0.001)
    assert slowest < 20, slowest
    return done


@pytest.mark.timeout(1500)
def test_killed_processes_of_every_role_lose_nothing_and_hold_up_nobody(tmp_path: Path, seed: int, long: bool) -> None:
    rng = random.Random(seed)
    path = tmp_path / "store"
    with Dict(path, shards=2, serdes="pickle") as store:
        store.update(FIXED)
    played: list[tuple[Callable[..., None], str]] = []

    def start(crew: Crew) -> Worker:
        role = ROLES[len(played) % len(ROLES)]
        played.append((role, f"{role.__name__.strip('_')}{len(played)}"))
        return crew.start(_play, role, path, played[-1][1])

    with Crew() as crew:
        counters = [crew.start(_count, path, tmp_path / "stop") for _ in range(2)]
        workers = [start(crew) for _ in range(4)]
        for _ in range(200 if long else 10):
            time.sleep(rng.uniform(0.005, 0.08))
            victim = workers.pop(rng.randrange(len(workers)))
            victim.kill()
            workers.append(start(crew))
        for worker in workers:
            worker.kill()
        (tmp_path / "stop").touch()
        count = sum(counter.result() for counter in counters)
    time.sleep(0.1)  # children of those that were killed are at their end

    acknowledged = {}
    for _, name in played:
        log = tmp_path / f"log-{name}"
        acknowledged[name] = int(log.read_text() or 0) if log.exists() else 0
    with Dict(path) as store:
        content = dict(store)
    assert content["count"] == count
    assert FIXED.items() <= content.items()
    made = 0
    for role, name in played:
        if role in WRITERS:
            for number in range(acknowledged[name]):
                assert content[f"{name} {number}"] == number
        if role in MAKERS:
            found = sorted(
                int(match[1])
                for file in tmp_path.iterdir()
                if (match := re.fullmatch(rf"store-made-{name}-(\d+)\.rack", file.name))
            )
            assert found[: acknowledged[name]] == list(range(acknowledged[name]))
            assert len(found) <= acknowledged[name] + 1
            for number in found[-2:]:
                with Dict(tmp_path / f"store-made-{name}-{number}") as copy:
                    assert FIXED.items() <= dict(copy).items()
                assert_sound(copy)
                made += 1
    print(f"{len(played)} processes killed, {sum(acknowledged.values())} acknowledged, {made} copies looked at")
    assert_sound(Dict(path))
