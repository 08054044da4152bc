"""A master that is killed while 8 processes write: what they were told is written, and what of that is there."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from typing import Any, NamedTuple

from rack import PersistentSet, ServerError, ServerTimeoutError
from rack.shard.redis.protocol import slot_of
from tests.support.servers import NODE_TIMEOUT, Cluster, Server

_FORK = multiprocessing.get_context("fork")
_PROCESSES = 8
_BEFORE = 1.5  # seconds of writing before the kill
_AFTER = 4.5  # ... and after it; or until it goes on, which takes so many at most:
_PATIENCE = 40.0
_LIMIT = 60.0


class Failover(NamedTuple):
    """``width``: of the window, in seconds: how long before the kill the first write was told that is lost."""

    told: int
    lost: int
    twice: int  # what was new to somebody once more, as it was lost in between
    width: float
    went_on: bool
    errors: int
    longest: float  # seconds that an operation took

    def __str__(self) -> str:
        return (
            f"{self.told} told, {self.lost} lost and {self.twice} new twice, within {1000 * self.width:.1f} ms before"
            f" the kill; {self.errors} errors, at most {self.longest:.1f} s"
        )


def failover(cluster: Cluster, name: str, durability: str, behind: float) -> Failover:
    """Kill the master of a shard of a new set; ``behind``: seconds for which its replica has got nothing by then."""
    url = f"{cluster.url}?name={name}"
    with PersistentSet(url, shards=12):
        pass
    killed, answers = _FORK.Value("d", 0.0), _FORK.Queue()
    arguments = url, durability, killed, answers
    workers = [_FORK.Process(target=_write, args=(number, *arguments)) for number in range(_PROCESSES)]
    for worker in workers:
        worker.start()
    time.sleep(_BEFORE)
    victim = cluster.master_of(slot_of(f"{name}:0".encode()))
    replica = _cut_off(cluster, victim) if behind else None
    time.sleep(behind)
    now = time.monotonic()
    victim.kill()
    if replica is not None:
        replica.go_on()
    killed.value = now
    if durability == "always":  # who has it on two servers needs two
        time.sleep(NODE_TIMEOUT / 1000 + 1)
        victim.start()
    found = [answers.get(timeout=_LIMIT) for _ in workers]
    for worker in workers:
        worker.join()
    told = [each for one, _, _ in found for each in one]
    with PersistentSet(url) as s:
        there = set(s)
        assert s.check() == len(there)
    lost = [(name, at) for name, at in told if name not in there]
    twice = [name for name, count in Counter(name for name, _ in told).items() if count > 1]
    # What was lost with the master is new once more: that is in the window as well.
    first = dict(sorted(told, key=lambda each: -each[1]))
    return Failover(
        told=len(told),
        lost=len(lost),
        twice=len(twice),
        width=max([0.0, *(now - at for _, at in lost), *(now - first[name] for name in twice)]),
        went_on=any(at > now + NODE_TIMEOUT / 1000 for _, at in told),
        errors=sum(errors for _, errors, _ in found),
        longest=max(longest for _, _, longest in found),
    )


def _cut_off(cluster: Cluster, master: Server) -> Server:
    """Have a master's replica get nothing more: it is stopped, and what is on its way to it is thrown away."""
    with master.client() as client:
        port = int(client.execute_command("ROLE")[2][0][1])
        replica = cluster.servers[port]
        replica.hang()
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    return replica


def _write(number: int, url: str, durability: Any, killed: Any, answers: Any) -> None:
    told: list[tuple[object, float]] = []
    errors, longest = 0, 0.0

    def is_over() -> bool:
        """Whether something was written since the replica took over."""
        return bool(told) and told[-1][1] > killed.value + NODE_TIMEOUT / 1000

    with PersistentSet(url, durability=durability) as s:
        key = 0
        while not killed.value or time.monotonic() < killed.value + (_AFTER if is_over() else _PATIENCE):
            before = time.monotonic()
            try:
                if s.add((number, key)):
                    told.append(((number, key), time.monotonic()))
                if s.add(("shared", key)):
                    told.append((("shared", key), time.monotonic()))
            except (ServerError, ServerTimeoutError):
                errors += 1
            longest = max(longest, time.monotonic() - before)
            key += 1
    answers.put((told, errors, longest))
