"""Processes that put jobs into one queue and claim them; and what the queue may have after a power failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rack
from rack import PersistentQueue
from rack.errors import CorruptShardError, StoreNotFoundError
from rack.store.router import router
from tests.interrupts import jobs
from tests.powerfail.history import NEVER, LostError, Operation, Past
from tests.powerfail.writers import Plan, Writer

LEASE = 900.0  # seconds: no lease ends by itself
GROUP = "group"


def open_queue(path: str | Path, **options: Any) -> PersistentQueue[str]:
    return PersistentQueue(path, LEASE, unique="ever", serdes="str", **options)


class Working(Writer):
    """Puts jobs, each with a name of its own, and claims some: to be done, to fail, to be given back, or kept."""

    def run(self) -> None:
        self._put_so_far = 0
        while True:
            self._open()
            for _ in range(self._rng.randrange(5, 300)):
                action = self._rng.choice([self._put_one, self._put_several, self._work, self._work, self._work_many])
                action()
                if self._rng.random() < 0.02:
                    self._sync()
                if self._rng.random() > self._plan.busy:
                    time.sleep(0.004 * self._rng.random())
            self._close()
            time.sleep(0.1 * self._rng.random())

    def _open(self, flag: str = "c", durability: str = "") -> None:
        plan = self._plan
        self._queue = open_queue(plan.name, engine=plan.engine, shards=plan.shards, durability=plan.durability)
        self._store = self._queue.open()  # type: ignore[assignment]
        self._note_opening("c", plan.durability)

    def _name(self, prefix: str) -> str:
        self._put_so_far += 1
        return f"{prefix}{self._number}.{self._put_so_far}." + "x" * self._rng.choice([0, 5, 90, 600])

    def _put_one(self) -> None:
        name = self._name(self._rng.choice(["", GROUP]))
        self._do("put", {}, partial(self._queue.put, name, group=_group(name)), [name])

    def _put_several(self) -> None:
        names = [self._name("") for _ in range(self._rng.randrange(30))]
        self._do("put", {}, partial(self._queue.put_many, names), names)

    def _work(self) -> None:
        job = self._queue.claim()
        if job is not None:
            self._end(job)

    def _work_many(self) -> None:
        for job in self._queue.claim_many(self._rng.randrange(20)):
            self._end(job)

    def _end(self, job: Any) -> None:
        kind = self._rng.random()
        if kind < 0.7:
            self._do("done", {}, job.done, [job.item])
        elif kind < 0.8:
            self._do("failed", {}, partial(job.fail, "no"), [job.item])
        elif kind < 0.98:
            job.release()


def examine(directory: Path, plan: Plan, past: Past, since: float) -> str:
    """Open the queue; return what came of it, in a word.

    :raises LostError: a job is lost, or is in no state that it was in by ``since`` or after; or the queue is not whole.
    """
    queue = open_queue(directory / "store", flag="w")
    try:
        queue.open()
    except StoreNotFoundError:
        if past.was_opened:
            raise LostError("the queue is gone") from None
        return "not made yet"
    except CorruptShardError as error:
        if plan.engine == "lmdb" and since < NEVER and past.may_be_refused(since):
            return "refused"
        raise LostError(f"damaged: {error}") from error
    with queue:
        queue.close()  # the other one of two
        try:
            jobs.check(queue)
        except AssertionError as error:
            raise LostError(f"not whole: {error}") from error
        lost = _check_states(_states(queue, past.operations), past.operations, since, plan.shards)
        _go_on(queue)
    report = rack.verify(directory / "store")
    if not report.sound:
        raise LostError(f"not sound: {report.as_dict()}")
    return "some lost" if lost else "nothing lost"


def _group(job: str) -> str | None:
    return GROUP if job.startswith(GROUP) else None


def _states(queue: PersistentQueue[str], operations: list[Operation]) -> dict[str, str]:
    """Return of each job that is there what has come of it: "put", "done" or "failed"."""
    states = {item: state if state == "failed" else "put" for item, state in jobs.content(queue).items()}
    for job, kind, _ in _steps(operations):
        if kind == "put" and job not in states and queue.knows(job, group=_group(job)):
            states[job] = "done"
    return states


def _check_states(states: dict[str, str], operations: list[Operation], since: float, shards: int) -> int:
    """Each shard is as it was at one moment, with all in it that was acknowledged by ``since``.

    Return how many acknowledged operations are lost.
    """
    route = router(range(shards))
    latest = [-NEVER] * shards  # when the last of what is there began, in each shard
    steps = list(_steps(operations))
    for job, kind, operation in steps:
        if _is_there(states, job, kind):
            shard = route(_hashed(job))
            latest[shard] = max(latest[shard], operation.begin)
    lost = 0
    for job, kind, operation in steps:
        if operation.end == NEVER or _is_there(states, job, kind):
            continue
        lost += 1
        if operation.end <= since:
            raise LostError(f"{job[:30]!r}: {kind} was acknowledged, and it is {states.get(job)}")
        if operation.end < latest[route(_hashed(job))]:
            raise LostError(f"{job[:30]!r}: {kind} is lost, and something later is not; it is {states.get(job)}")
    begun = {(job, kind) for job, kind, _ in steps}
    made_up = {job for job, state in states.items() if (job, state) not in begun}
    if made_up:
        raise LostError(f"what nobody did: {[(job[:30], states[job]) for job in sorted(made_up)[:3]]}")
    return lost


def _steps(operations: list[Operation]) -> Iterator[tuple[str, str, Operation]]:
    for operation in operations:
        for job in operation.jobs:
            yield job, operation.kind, operation


def _is_there(states: dict[str, str], job: str, kind: str) -> bool:
    return job in states if kind == "put" else states.get(job) == kind


def _hashed(job: str) -> bytes:
    """Return what decides the shard of a job."""
    group = _group(job)
    return job.encode() if group is None else b"\0" + group.encode()


def _go_on(queue: PersistentQueue[str]) -> None:
    """Each job that is not over is claimed once: the leases were of another boot."""
    left, before = len(queue), queue.counts()
    claimed = 0
    while (job := queue.claim()) is not None:
        job.done()
        claimed += 1
    counts = queue.counts()
    if claimed != left or (counts.done, counts.failed) != (before.done + left, before.failed):
        raise LostError(f"{claimed} of {left} jobs were claimed: {before}, and then {counts}")
