"""Lanes: rows of jobs among which a worker chooses. Each step leaves a job in its lane."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rack import LeaseLostError, PersistentQueue, verify
from rack.jobs.job import Counts
from tests.jobs.clock import Clock
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Queue = PersistentQueue[Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def taken(queue: Queue, **lanes: int) -> list[str]:
    return [job.item for job in queue.claim_of(lanes)]


def test_each_lane_is_in_order_for_itself(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=1) as queue:
        for number in range(6):
            queue.put(f"a{number}", lane="a")
            queue.put(f"b{number}", lane="b", priority=number)
            queue.put(f"none{number}")
        assert sorted(queue.lanes()) == ["", "a", "b"]
        assert taken(queue, a=2) == ["a0", "a1"]
        assert taken(queue, b=2, missing=5) == ["b5", "b4"]
        assert [job.item for job in queue.claim_of({"": 1, "a": 1})] == ["none0", "a2"]
        assert queue.peek(3) == ["b3", "b2", "b1"]  # over all lanes
        assert taken(queue, a=9, b=0) == ["a3", "a4", "a5"]
        assert sorted(queue.lanes()) == ["", "b"]
        rest = [job.item for job in queue.claim_many(100)]  # of any lane
        assert sorted(rest) == sorted(["b0", "b1", "b2", "b3", *(f"none{number}" for number in range(1, 6))])
        assert queue.lanes() == []


def test_a_key_is_one_key_in_all_lanes(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", unique="ever") as queue:
        assert [queue.put("x", lane="a"), queue.put("x", lane="b"), queue.put("x")] == [True, False, False]
        assert queue.knows("x")
        with queue.batch() as batch:
            batch.put("y", lane="é\ud800")
        assert sorted(queue.lanes()) == ["a", "é\ud800"]
        (job,) = queue.claim_of({"é\ud800": 1})
        assert (job.item, job.lane) == ("y", "é\ud800")
        with pytest.raises(ValueError, match="group='g', lane='a'"):
            queue.put("z", lane="a", group="g")


def test_every_state_leads_back_to_the_lane(tmp_path: Path, clock: Clock) -> None:
    with Queue(tmp_path / "q", lease=10, max_claims=4) as queue:
        queue.put("x", lane="a", delay=5)
        assert (queue.lanes(), taken(queue, a=1)) == ([], [])
        clock.pass_by(6)
        (job,) = queue.claim_of({"a": 1})
        job.release()
        assert taken(queue, b=1) == []
        (job,) = queue.claim_of({"a": 1})
        clock.pass_by(11)  # its lease ends
        (again,) = queue.claim_of({"a": 1})
        with pytest.raises(LeaseLostError):
            job.done()
        again.extend(20)
        clock.pass_by(15)
        again.fail("503")
        assert queue.lanes() == []
        assert queue.retry_failed() == 1
        assert queue.lanes() == ["a"]
        queue.claim_of({"a": 1})[0].done()
        assert queue.counts() == Counts(0, 0, 0, 1, 0)


def test_lanes_and_groups_leave_each_other_alone(tmp_path: Path) -> None:
    with Queue(tmp_path / "q") as queue:
        for number in range(3):
            queue.put(f"g{number}", group="a")
            queue.put(f"l{number}", lane="a")
        first = queue.claim_of({"": 9})
        assert [job.item for job in first] == ["g0"]  # one of a group at a time
        assert sorted(taken(queue, a=9)) == ["l0", "l1", "l2"]
        first[0].done()
        assert [job.item for job in queue.claim_of({"": 9})] == ["g1"]


def test_a_copy_with_other_shards_has_the_lanes(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=3) as queue:
        for number in range(60):
            queue.put(number, lane=f"lane {number % 3}")
        with queue.copy(tmp_path / "copy", shards=5) as copy:
            assert sorted(copy.lanes()) == sorted(queue.lanes()) == ["lane 0", "lane 1", "lane 2"]
            assert sorted(job.item for job in copy.claim_of({"lane 1": 100})) == list(range(1, 60, 3))
    assert not verify(tmp_path / "copy").found


def test_any_steps_answer_as_rows_in_memory_do(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    held: list[tuple[Any, tuple[int, int]]] = []
    with Queue(tmp_path / "q", shards=1) as queue:
        for number in range(400):
            lane = rng.choice(["", "a", "b", "c"])
            step = rng.random()
            if step < 0.5:
                priority = rng.randrange(3)
                assert queue.put(number, lane=lane, priority=priority)
                rows[lane].append((-priority, number))
            elif step < 0.8:
                most = rng.randrange(4)
                expected = sorted(rows[lane])[:most]
                jobs = queue.claim_of({lane: most})
                assert [job.item for job in jobs] == [item for _, item in expected]
                rows[lane] = sorted(rows[lane])[most:]
                held += zip(jobs, expected, strict=True)
            elif held:
                job, entry = held.pop(rng.randrange(len(held)))
                if rng.random() < 0.5:
                    job.done()
                else:
                    job.release()
                    rows[job.lane].append(entry)
            assert set(queue.lanes()) == {lane for lane, row in rows.items() if row}
