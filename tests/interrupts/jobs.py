"""The state of a queue, for comparison; and whether it is whole, by its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import monotonic_ns
from typing import Any

from rack.jobs import records
from rack.jobs.records import ALIVE, Counters, Job
from rack.shard.spans import ALL, blocks

LEASE = 1000.0  # seconds
FIRST = 9  # the priority of what is put beside the jobs of a test

#: Jobs of each state, by what is in the store from the beginning.
WAITING = [f"w{number}" for number in range(3)]
GROUPED = [f"g{number}" for number in range(3)]


def fill(queue: Any) -> Any:
    """Put jobs of every state, and return the one that is leased."""
    queue.put("leased", priority=5)
    queue.put("failed", priority=4)
    leased, failed = queue.claim_many(2)
    failed.fail("broken")
    queue.put_many(WAITING)
    queue.put("delayed", delay=1e6)
    for item in GROUPED:
        queue.put(item, group="group")
    return leased


def remove(queue: Any, item: str) -> None:
    """Have a job done that waits, if it is there; of the others each stays what it is."""
    claimed = []
    try:
        while queue.knows(item) and (job := queue.claim()) is not None:
            if job.item == item:
                job.done()
                break
            claimed.append(job)
    finally:
        for job in claimed:
            job.release()


def content(queue: Any) -> dict[str, str]:
    """Return the state of each job."""
    return {job.item.decode(): state for state, job, _, _ in _jobs(queue)}


def check(queue: Any) -> None:
    """Look whether it is whole, while nobody writes to it.

    :raises AssertionError: a job has more than one state, a key has no job, a lease ends too late, a group stands
        still, or counters are wrong.
    """
    states: dict[bytes, str] = {}
    known: dict[bytes, bytes] = {}
    first: Counter[bytes] = Counter()  # of each group, how many jobs have their turn
    behind: set[bytes] = set()
    clock = queue._store.clock
    all_jobs = list(_jobs(queue))
    now = monotonic_ns() if clock is None else clock()()
    for state, job, key, kind in all_jobs:
        assert job.item not in states, f"{job.item!r} is {state}, and {states[job.item]}"
        states[job.item] = state
        known[job.key_record] = records.GAVE_UP + key if state == "failed" else ALIVE
        if kind == records.GROUPED:
            behind.add(job.tail)
        elif job.group and state in ("waiting", "leased"):
            first[job.tail] += 1
        is_of_this_clock = (key[1:9] == records.SHARED) == (clock is not None)  # another one's leases are over
        if state == "leased" and is_of_this_clock:
            assert records.time_of(key, 9) <= now + LEASE * 1e9, "a lease is too long"
    keys: dict[bytes, bytes] = {}
    told: Counter[str] = Counter()
    for key, value in _records(queue):
        if key[:1] in (records.KEY, records.DIGEST) and value != records.DONE:
            keys[key] = value
        elif key[:1] == records.COUNTERS:
            counters = Counters(value)
            told.update(jobs=counters.jobs, delayed=counters.delayed, failed=counters.failed)
    assert keys == known, f"keys {keys}, and jobs {known}"
    assert all(first[tail] == 1 for tail in behind | first.keys()), "a group has no job that can be claimed, or two"
    counted = Counter(states.values())
    alive = len(states) - counted["failed"]
    assert told == Counter(jobs=alive, delayed=counted["delayed"], failed=counted["failed"]), f"{told}, and {counted}"


_STATES = {
    records.WAITING: "waiting",
    records.GROUPED: "waiting",  # for the one before it
    records.DELAYED: "delayed",
    records.LEASED: "leased",
    records.FAILED: "failed",
}


def _jobs(queue: Any) -> Iterator[tuple[str, Job, bytes, bytes]]:
    """Yield the state of each job, the job, the key of its record, and what that begins with."""
    for key, value in _records(queue):
        kind, tail = key[:1], key[-records.TAIL :]
        if kind == records.LEASED:
            yield _STATES[kind], records.unpack_lease(value, tail), key, kind
        elif kind == records.FAILED:
            yield _STATES[kind], records.unpack_failed(value, tail)[1], key, kind
        elif kind in _STATES and value:  # nothing: a group pauses
            yield _STATES[kind], Job.unpack(value, tail), key, kind


def _records(queue: Any) -> Iterator[tuple[bytes, bytes]]:
    for shard in queue._store.shards:
        for block in blocks(shard, ALL, values=True):
            yield from block
