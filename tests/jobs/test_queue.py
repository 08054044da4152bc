"""What a queue promises to one process: keys, order, states, errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import (
    DeserializationError,
    LeaseLostError,
    MismatchError,
    NotOpenError,
    PersistentDict,
    PersistentQueue,
    ReadOnlyError,
    SerializationError,
)
from rack.jobs.job import Counts
from tests.jobs.clock import Clock
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Queue = PersistentQueue[Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def claimed(queue: Queue) -> list[Any]:
    """Claim all there is; return the items."""
    found = []
    while (job := queue.claim()) is not None:
        found.append(job.item)
    return found


def work(job: Any, during: Callable[[], object] = lambda: 1 // 0) -> None:
    with job:
        during()


# Keys


def test_a_key_that_waits_or_is_leased_is_refused_and_can_be_put_again_when_it_is_done(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        assert [queue.put("a"), queue.put("b"), queue.put("a"), queue.put("c", key="a")] == [True, True, False, False]
        assert queue.put("later", delay=1000)
        assert not queue.put("later")
        jobs = {job.item: job for job in queue.claim_many(9)}
        assert jobs.keys() == {"a", "b"}
        assert not queue.put("a")
        jobs["a"].done()
        jobs["b"].fail("no")
        assert [queue.put("a"), queue.put("b")] == [True, True]  # a failed job is replaced by the new one
        assert queue.counts() == Counts(2, 1, 0, 1, 0)


def test_a_key_that_was_ever_put_is_refused_for_ever(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", unique="ever") as queue:
        assert queue.put_many(["a", "b", "a", "c"]) == 3
        for job in queue.claim_many(3):
            {"a": job.done, "b": job.release, "c": lambda job=job: job.fail("no")}[job.item]()
        assert queue.put_many("abc") == 0
        assert queue.counts() == Counts(1, 0, 0, 1, 1)
    with Queue(tmp_path / "q") as queue:  # another handle forgets them
        assert [queue.put(item) for item in "abc"] == [True, False, True]


def test_without_keys_all_are_put(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", unique=None) as queue:
        assert queue.put_many(["a"] * 40) == 40
        assert queue.put({"unhashable": []}, key=7)
        assert sorted(map(str, claimed(queue))) == ["a"] * 40 + ["{'unhashable': []}"]


def test_keys_are_equal_as_in_a_dict_and_may_be_long(tmp_path: Path) -> None:
    long = "x" * 5000
    with Queue(tmp_path / "q") as queue:
        assert [queue.put(item) for item in (1, 1.0, True, "1", (1, long), long, long + "y")] == [
            *(True, False, False, True, True, True, True)
        ]
        assert not queue.put([1], key=(1.0, long))
        with pytest.raises(TypeError, match="list"):
            queue.put([1])
        with pytest.raises(SerializationError):
            queue.put(object(), key=5)
        assert queue.put([1], key=5)
        jobs = queue.claim_many(99)
        assert {str(job.key)[:6] for job in jobs} == {"1", "(1, 'x", "xxxxxx", "5"}
        for job in jobs:
            job.done()
        assert len(queue) == 0
        assert queue.counts().done == len(jobs) == 6


# Order


def test_the_order_is_by_priority_and_then_by_age(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=1) as queue:
        queue.put_many(range(10))
        queue.put("low", priority=-1)
        queue.put("high", priority=2)
        queue.put("higher", priority=2**31 - 1)
        queue.put("lowest", priority=-(2**31))
        assert queue.peek(3) == ["higher", "high", 0]
        assert claimed(queue) == ["higher", "high", *range(10), "low", "lowest"]
        with pytest.raises(ValueError, match="priority"):
            queue.put("none", priority=2**31)


def test_the_order_holds_when_the_time_of_day_is_set_back(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", shards=1) as queue:
        for number in range(10):
            queue.put(number)
            clock.time -= 3600
        assert claimed(queue) == list(range(10))


def test_a_job_that_comes_first_is_passed_over_less_often_than_there_are_shards(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=8) as queue:
        queue.put_many(range(500))
        for turn in range(20):
            queue.put(f"urgent {turn}", priority=1)
            items = [queue.claim().item for _ in range(8)]  # type: ignore[union-attr]
            assert f"urgent {turn}" in items


# States


def test_a_job_is_done_at_the_end_of_its_block_and_released_by_an_exception(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", max_claims=3) as queue:
        queue.put("a")
        for claims in (1, 2):
            job = queue.claim()
            assert job is not None
            assert job.claims == claims
            with pytest.raises(ZeroDivisionError):
                work(job)
        with queue.claim() as job:  # type: ignore[union-attr]
            assert (job.item, job.key, job.claims) == ("a", "a", 3)
        assert queue.counts() == Counts(0, 0, 0, 1, 0)
        queue.put("b")
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                work(queue.claim())
        assert queue.claim() is None
        (failed,) = queue.failed()
        assert (failed.item, failed.key, failed.claims, failed.reason) == (
            "b",
            "b",
            3,
            "ZeroDivisionError: integer division or modulo by zero",
        )


def test_a_job_that_was_ended_in_its_block_is_left_alone(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        queue.put_many("ab")
        with queue.claim() as job:  # type: ignore[union-attr]
            job.fail("no")
        other = queue.claim()
        assert other is not None
        with pytest.raises(ZeroDivisionError):
            work(other, lambda: 1 // int(other.done() is not None))
        assert queue.counts() == Counts(0, 0, 0, 1, 1)


def test_failed_jobs_wait_again_when_they_are_retried(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        queue.put_many(range(50), priority=3)
        for job in queue.claim_many(50):
            job.fail(f"reason {job.item} \udc80")
        assert {(job.item, job.reason) for job in queue.failed()} == {(n, f"reason {n} \\udc80") for n in range(50)}
        assert queue.retry_failed() == 50
        assert queue.counts() == Counts(50, 0, 0, 0, 0)
        assert not queue.put(7)
        assert {job.claims for job in queue.claim_many(99)} == {1}


def test_delays_end_by_the_time_of_day(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=1000, shards=2) as queue:
        queue.put("slow", delay=100)
        queue.put("now")
        assert claimed(queue) == ["now"]
        assert queue.counts() == Counts(0, 1, 1, 0, 0)
        clock.pass_by(99)
        assert queue.peek() == claimed(queue) == []
        clock.pass_by(1)
        assert queue.peek() == ["slow"]
        assert queue.counts() == Counts(1, 0, 1, 0, 0)
        job = queue.claim()
        assert job is not None
        job.release(delay=50)
        assert queue.claim() is None
        clock.pass_by(50)
        assert claimed(queue) == ["slow"]


def test_a_lease_ends_with_its_deadline_and_then_the_first_worker_has_lost_it(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=30) as queue:
        queue.put("a")
        first = queue.claim()
        assert first is not None
        clock.pass_by(29.9)
        assert queue.claim() is None
        first.extend(30)
        clock.pass_by(29.9)
        assert queue.claim() is None
        clock.pass_by(0.2)
        second = queue.claim()
        assert second is not None
        assert second.claims == 2
        for step in (first.done, first.release, lambda: first.fail("no"), lambda: first.extend(5)):
            with pytest.raises(LeaseLostError):
                step()
        clock.pass_by(40)
        second.done()  # late, but nobody has taken it back
        with pytest.raises(LeaseLostError):
            second.done()
        with pytest.raises(TimeoutError):
            second.extend(1)


def test_no_clock_that_is_set_ends_a_lease(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=30) as queue:
        queue.put("a")
        job = queue.claim()
        for jump in (1e9, -2e9, 5e8):
            clock.time += jump
            assert queue.claim() is None
        assert job is not None
        job.done()


def test_who_has_lost_a_lease_learns_it_at_the_end_of_the_block(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=30) as queue:
        queue.put("a")
        with pytest.raises(LeaseLostError):
            work(queue.claim(), lambda: (clock.pass_by(31), queue.claim()))
        clock.pass_by(31)
        with pytest.raises(ZeroDivisionError):  # which goes before
            work(queue.claim(), lambda: 1 // int(queue.clear() is not None))


def test_a_job_claimed_too_often_has_failed(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=30, max_claims=2) as queue:
        queue.put("deadly")
        for _ in range(2):
            assert queue.claim() is not None
            clock.pass_by(31)
        assert queue.claim() is None
        (failed,) = queue.failed()
        assert failed.reason == "was claimed 2 times, and its lease ended each time"


# Groups


def test_one_job_of_a_group_is_leased_at_a_time_and_one_is_claimed_in_each_pause(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=30, pause=2, shards=2) as queue:
        for number in range(4):
            assert queue.put(("a", number), group="a")
            assert queue.put(("b", number), group="b")
        assert not queue.put(("a", 0), group="a")
        assert queue.counts().waiting == 8
        jobs = queue.claim_many(9)
        assert sorted(job.item for job in jobs) == [("a", 0), ("b", 0)]
        clock.pass_by(5)
        assert queue.claim() is None
        jobs[0].done()
        jobs[1].release()
        again = queue.claim_many(9)
        assert sorted(job.item[1] for job in again) == [0, 1]  # the pause was over
        for job in again:
            job.done()
        assert queue.claim() is None
        clock.pass_by(1.9)
        assert queue.claim() is None
        clock.pass_by(0.1)
        for _ in range(20):
            for job in queue.claim_many(9):
                job.fail("no") if job.item[1] == 3 else job.done()
            clock.pass_by(2)
        assert queue.counts() == Counts(0, 0, 0, 6, 2)
        assert queue.retry_failed() == 2
        assert len(queue.claim_many(9)) == 2
        clock.pass_by(31)  # the leases end
        assert len(queue.claim_many(9)) == 2


# The whole


def test_join_returns_when_nothing_is_left_to_be_done(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        assert queue.join()
        queue.put_many("ab")
        jobs = queue.claim_many(2)
        assert not queue.join(timeout=0.05)
        jobs[0].done()
        jobs[1].fail("no")
        assert queue.join()
        assert bool(queue) is False


def test_an_item_that_cannot_be_read_has_failed(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", serdes="bytes", shards=1) as queue:
        queue.put(b"good")
        queue.put(b"bad")
        queue._load = lambda data: data if data != b"bad" else int(data)
        with pytest.raises(DeserializationError):
            queue.claim_many(2)
        queue._load = bytes
        assert [job.item for job in queue.failed()] == [b"bad"]
        assert claimed(queue) == [b"good"]


def test_a_queue_is_nothing_else_and_nothing_else_is_a_queue(tmp_path: Path) -> None:
    Queue(tmp_path / "q").open().close()
    PersistentDict[str, int](tmp_path / "d").open().close()
    with pytest.raises(MismatchError, match="is a queue: open it as PersistentQueue"):
        PersistentDict[str, int](tmp_path / "q").open()
    with pytest.raises(MismatchError, match="is a dict: open it as PersistentDict"):
        Queue(tmp_path / "d").open()


def test_arguments_that_are_wrong_are_refused(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"lease": 0},
        {"lease": float("nan")},
        {"unique": "never"},
        {"max_claims": 0},
        {"pause": -1},
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Queue(tmp_path / "q", **arguments)
    with Queue(tmp_path / "q") as queue:
        for call in (
            lambda: queue.put("a", delay=-1),
            lambda: queue.claim(wait=-1),
            lambda: queue.claim_many(-1),
            lambda: queue.peek(-1),
        ):
            with pytest.raises(ValueError, match="must be"):
                call()
        assert queue.claim_many(0) == []
    with pytest.raises(NotOpenError):
        queue.claim()
    with pytest.raises(NotOpenError):
        len(queue)


def test_a_queue_opened_for_reading_is_looked_at_and_not_changed(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        queue.put_many("ab")
    with Queue(tmp_path / "q", flag="r") as queue:
        assert (len(queue), len(queue.peek(5)), queue.counts().waiting) == (2, 2, 2)
        for write in (queue.claim, queue.clear, lambda: queue.put("c")):
            with pytest.raises(ReadOnlyError):
                write()


def test_a_handle_can_be_pickled_and_keeps_what_it_was_told(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", lease=7, unique="ever", max_claims=1, timeout=30) as queue:
        queue.put("a")
        with pickle.loads(pickle.dumps(queue)) as again:
            again.claim().release()
            assert not again.put("a")
            assert again._lease == 7 * 10**9
            again.close()
        assert next(queue.failed()).item == "a"
