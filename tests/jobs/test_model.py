"""Any steps, in any order, answer as a plain model in memory does."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rack import LeaseLostError, PersistentQueue
from rack.jobs.job import Counts, Job
from tests.jobs.clock import Clock
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

LEASE = 30.0
MAX_CLAIMS = 3


@dataclass(eq=False)
class Entry:
    """A job of the model."""

    item: int
    priority: int
    age: int
    state: str = "waiting"
    ready: float = 0.0  # time of day
    deadline: float = 0.0
    claims: int = 0
    reason: str = ""
    lease: int = 0  # the number of the last one

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.age


@dataclass
class Model:
    clock: Clock
    unique: str | None
    jobs: list[Entry] = field(default_factory=list)
    ever: set[int] = field(default_factory=set)
    done: int = 0
    puts: int = 0
    leases: int = 0

    def find(self, item: int) -> Entry | None:
        return next((job for job in self.jobs if job.item == item), None)

    def put(self, item: int, priority: int, delay: float) -> bool:
        found = self.find(item)
        if self.unique == "ever" and item in self.ever:
            return False
        if self.unique == "waiting" and found is not None:
            if found.state != "failed":
                return False
            self.jobs.remove(found)
        self.ever.add(item)
        self.puts += 1
        job = Entry(item, priority, self.puts)
        self._wait(job, delay)
        self.jobs.append(job)
        return True

    def _wait(self, job: Entry, delay: float) -> None:
        job.state = "delayed" if delay else "waiting"
        job.ready = self.clock.time + delay

    def move(self) -> None:
        """What claims do first."""
        for job in self.jobs:
            if job.state == "leased" and job.deadline <= self.clock.monotonic:
                self.give_back(job, 0, "was claimed 3 times, and its lease ended each time")
            elif job.state == "delayed" and job.ready <= self.clock.time:
                job.state = "waiting"

    def first(self, most: int) -> list[Entry]:
        is_ready = lambda job: job.state == "waiting" or (job.state == "delayed" and job.ready <= self.clock.time)  # noqa: E731
        return sorted(filter(is_ready, self.jobs), key=lambda job: job.order)[:most]

    def claim(self, job: Entry) -> None:
        self.leases += 1
        job.lease = self.leases
        job.state, job.deadline, job.claims = "leased", self.clock.monotonic + LEASE, job.claims + 1

    def give_back(self, job: Entry, delay: float, reason: str) -> None:
        if job.claims >= MAX_CLAIMS:
            job.state, job.reason = "failed", reason
        else:
            self._wait(job, delay)

    def counts(self) -> Counts:
        states = [
            "waiting" if job.state == "delayed" and job.ready <= self.clock.time else job.state for job in self.jobs
        ]
        of = states.count
        return Counts(of("waiting"), of("delayed"), of("leased"), self.done, of("failed"))


def _is_lost(step: Callable[[], object]) -> bool:
    with contextlib.suppress(LeaseLostError):
        step()
        return False
    return True


@pytest.mark.parametrize(("shards", "unique"), [(1, "waiting"), (1, "ever"), (1, None), (3, "waiting")])
def test_any_steps_answer_as_a_plain_model(
    shards: int, unique: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, long: bool
) -> None:
    clock, rng = Clock(monkeypatch), random.Random(seed)
    model = Model(clock, unique)
    # A handle for each of some workers: they share nothing but the store.
    options: dict[str, Any] = {"shards": shards, "unique": unique, "durability": "process"}
    handles = [PersistentQueue[int](tmp_path / "q", LEASE, max_claims=MAX_CLAIMS, **options) for _ in range(3)]
    with handles[0], handles[1], handles[2]:
        _walk(handles, model, rng, 5000 if long else 400)


def _walk(queues: list[PersistentQueue[int]], model: Model, rng: random.Random, turns: int) -> None:
    clock, shards = model.clock, len(queues[0]._store.shards)
    leased: list[tuple[Job[int], Entry, int]] = []  # with the number of the lease
    for _ in range(turns):
        queue = rng.choice(queues)
        match rng.choice(["put", "put", "put", "claim", "claim", "end", "end", "end", "pass", "look", "retry"]):
            case "put":
                item, priority, delay = (
                    rng.randrange(40 if model.unique else 10**9),
                    rng.choice([0, 0, 0, 5, -5]),
                    rng.choice([0, 0, 0, 7, 40]),
                )
                assert queue.put(item, priority=priority, delay=delay) == model.put(item, priority, delay)
            case "claim":
                most = rng.choice([1, 1, 3])
                model.move()
                found = queue.claim_many(most)
                expected = model.first(most)
                if shards == 1:
                    assert [job.item for job in found] == [job.item for job in expected]
                    entries = expected
                else:
                    entries = [each for job in found if (each := model.find(job.item)) is not None]
                    assert len(entries) == len(found) == len(expected)
                    assert all(each.state == "waiting" for each in entries)
                for job, entry in zip(found, entries, strict=True):
                    model.claim(entry)
                    assert job.claims == entry.claims
                    leased.append((job, entry, entry.lease))
            case "end" if leased:
                job, entry, lease = leased.pop(rng.randrange(len(leased)))
                is_lost = (entry.state, entry.lease) != ("leased", lease) or entry not in model.jobs
                match rng.choice(["done", "release", "release later", "fail", "extend"]):
                    case "done":
                        assert _is_lost(job.done) == is_lost
                        if not is_lost:
                            model.jobs.remove(entry)
                            model.done += 1
                    case "release":
                        assert _is_lost(job.release) == is_lost
                        if not is_lost:
                            model.give_back(entry, 0, "was released, and was claimed 3 times")
                    case "release later":
                        assert _is_lost(lambda job=job: job.release(delay=10)) == is_lost
                        if not is_lost:
                            model.give_back(entry, 10, "was released, and was claimed 3 times")
                    case "fail":
                        assert _is_lost(lambda job=job: job.fail("no")) == is_lost
                        if not is_lost:
                            entry.state, entry.reason = "failed", "no"
                    case "extend":
                        assert _is_lost(lambda job=job: job.extend(LEASE)) == is_lost
                        if not is_lost:
                            entry.deadline = clock.monotonic + LEASE
                            leased.append((job, entry, lease))
            case "pass" if shards == 1:  # a claim does not look at all shards, so some leases end later
                clock.pass_by(rng.choice([1, 10]))
            case "retry" if rng.random() < 0.1:
                retried = [job for job in model.jobs if job.state == "failed"]
                assert queue.retry_failed() == len(retried)
                for job in retried:
                    model.puts += 1
                    job.state, job.claims, job.age = "waiting", 0, model.puts
                if len(retried) > 1:  # in which order is not said
                    _take_ages(queue, model, retried)
            case "look":
                if shards == 1:
                    assert queue.peek(5) == [job.item for job in model.first(5)]
                    assert queue.counts() == model.counts()
                assert {(job.item, job.claims, job.reason) for job in queue.failed()} == {
                    (job.item, job.claims, job.reason) for job in model.jobs if job.state == "failed"
                }


def _take_ages(queue: PersistentQueue[int], model: Model, jobs: list[Entry]) -> None:
    """Give the jobs of the model the ages that they have in the queue."""
    stamps: dict[Any, list[int]] = {}
    for shard in queue._store.shards:
        for key, data in shard.scan(b"w", b"x", False, True, 10_000):
            stamps.setdefault(queue._load(data[23 + int.from_bytes(data[17:21], "big") :]), []).append(
                int.from_bytes(key[5:13], "big")
            )
    ages = sorted(job.age for job in jobs)
    jobs = sorted(jobs, key=lambda job: max(stamps[job.item]))
    for job, age in zip(jobs, ages, strict=True):
        job.age = age
