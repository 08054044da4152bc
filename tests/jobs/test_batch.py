"""What a queue's batch promises: what is put is there before anything is done, and nothing if the block raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import LeaseLostError, NotOpenError, PersistentQueue, SerializationError
from rack.jobs.job import Counts, Job
from rack.jobs.steps import Steps
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Queue = PersistentQueue[Any]


def write(queue: Queue, job: Job[Any], last: Callable[[], object] = bool) -> None:
    with queue.batch() as batch:
        batch.put("d")
        batch.done(job)
        last()


@pytest.mark.parametrize("shards", [1, 5])
def test_a_batch_puts_and_ends_jobs(shards: int, tmp_path: Path) -> None:
    with Queue(tmp_path / "q", unique="ever", shards=shards) as queue:
        queue.put_many(range(2500))
        jobs = queue.claim_many(2000)
        batch = queue.batch()
        with batch:
            for number in range(1500, 4500):
                batch.put(number, priority=number % 3)
            batch.put("by key", key=7)
            for _ in range(3):
                batch.put("without", unique=False)
            for job in jobs:
                batch.done(job)
            assert queue.counts() == Counts(500, 0, 2000, 0, 0)  # nothing is written yet
        assert (batch.new, batch.lost) == (2003, [])
        assert queue.counts() == Counts(500 + 2003, 0, 0, 2000, 0)
        with batch:  # again
            batch.put(4500)
            batch.put(4500)
        assert (batch.new, batch.lost) == (1, [])
        assert sum(job.item == "without" for job in queue.claim_many(9999)) == 3
        with pytest.raises(LeaseLostError):
            jobs[0].done()
    with pytest.raises(NotOpenError):
        queue.batch()


def test_in_one_shard_it_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue(tmp_path / "q", unique="ever", shards=1) as queue:
        queue.put_many("abc")
        jobs = queue.claim_many(3)

        def fail(*args: object) -> bool:
            raise RuntimeError("in the middle")

        with monkeypatch.context() as patch:
            patch.setattr(Steps, "_done", fail)
            with pytest.raises(RuntimeError, match="in the middle"):
                write(queue, jobs[0])
        assert queue.counts() == Counts(0, 0, 3, 0, 0)
        write(queue, jobs[0])
        assert queue.counts() == Counts(1, 0, 2, 1, 0)


def test_over_shards_all_is_put_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue(tmp_path / "q", shards=5) as queue:
        queue.put_many(range(50))
        jobs = queue.claim_many(50)
        ended: list[int] = []
        done = Steps._done

        def look(steps: Steps, *args: Any) -> bool:
            ended.append(len(queue._opened.steps) and len(queue))
            return done(steps, *args)

        monkeypatch.setattr(Steps, "_done", look)
        before = len(queue)
        with queue.batch() as batch:
            for job in jobs:
                batch.done(job)
            for number in range(100, 150):
                batch.put(number)
        assert ended[0] == before + 50
        assert len(queue) == 50


def test_a_block_that_raises_writes_nothing(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        queue.put("a")
        job = queue.claim()
        assert job is not None
        with pytest.raises(ZeroDivisionError):
            write(queue, job, lambda: 1 // 0)
        assert queue.counts() == Counts(0, 0, 1, 0, 0)
        with queue.batch() as batch:
            for call, error in (
                (lambda: batch.put([1]), TypeError),
                (lambda: batch.put(object(), key=1), SerializationError),
                (lambda: batch.put(1, priority=2**31), ValueError),
            ):
                with pytest.raises(error):
                    call()
            batch.done(job)
        assert queue.counts() == Counts(0, 0, 0, 1, 0)


def test_jobs_whose_lease_is_lost_are_told(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=1) as queue:
        queue.put_many("ab")
        first, second = queue.claim_many(2)
        first.release()
        again = queue.claim()
        with queue.batch() as batch:
            batch.done(first)
            batch.done(second)
        assert [job.item for job in batch.lost] == ["a"]
        assert queue.counts() == Counts(0, 0, 1, 1, 0)
        assert again is not None
        again.done()


@pytest.mark.parametrize("unique", ["waiting", "ever", None])
def test_a_queue_knows_the_keys_that_it_would_refuse(unique: str | None, tmp_path: Path) -> None:
    with Queue(tmp_path / "q", unique=unique, shards=3) as queue:
        queue.put_many(range(20))
        queue.put("g", group="host", delay=1000)
        queue.put("without", unique=False)
        for job in queue.claim_many(10):
            job.done()
        assert queue.knows(1.0) == queue.knows(1)
        asked = [*range(30), "without", None]
        known = [queue.knows(each) for each in asked]
        assert queue.knows("g", group="host") == (unique is not None)
        assert known == [not queue.put("other", key=each) if each is not None else False for each in asked]
        with pytest.raises(TypeError):
            queue.knows([])
        assert queue.peek(1)


def test_a_job_has_its_priority(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=1) as queue:
        queue.put_many("a")
        queue.put("b", priority=-5)
        assert [(job.item, job.priority) for job in queue.claim_many(2)] == [("a", 0), ("b", -5)]
