"""Jobs survive their workers: processes that claim jobs, and are killed."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rack import LeaseLostError, PersistentQueue
from rack.jobs.job import Counts
from tests.store.test_boot import after_reboot
from tests.support.killed_jobs import check_kills
from tests.support.processes import Crew, hear, run, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Queue = PersistentQueue[Any]


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_no_job_is_lost_or_done_twice_while_workers_are_killed(
    durability: str, tmp_path: Path, seed: int, long: bool
) -> None:
    kills, jobs = (20, 150) if long else (6, 80)
    rng = random.Random(seed)
    check_kills(tmp_path / "q", tmp_path / "log", kills, jobs, rng, shards=4, durability=durability)


def test_the_job_of_a_dead_process_is_claimed_again_at_once(tmp_path: Path) -> None:
    path = tmp_path / "q"

    def claim() -> None:
        with Queue(path, lease=1000) as queue:
            for job in queue.claim_many(3):
                tell(job.item)
            hear()

    with Queue(path) as queue, Crew() as crew:
        queue.put_many("abc")
        worker = crew.start(claim)
        items = {worker.hear() for _ in range(3)}
        assert queue.claim(wait=0.5) is None  # it is alive
        worker.kill()
        began = time.monotonic()
        again = [queue.claim(wait=10) for _ in range(3)]
        assert {job.item for job in again if job is not None} == items
        assert time.monotonic() - began < 2


def test_a_process_that_has_the_number_of_a_dead_one_does_not_keep_its_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rack.system import processes

    me = processes.myself()
    if not me.start:
        pytest.skip("this system does not tell when a process was started")
    with Queue(tmp_path / "q", lease=1000) as queue:
        queue.put_many("abc")
        monkeypatch.setattr(processes, "_myself", me._replace(start=me.start - 1))  # of the same number, before
        assert queue.claim() is not None
        monkeypatch.setattr(processes, "_myself", me._replace(start=me.start - 1, namespace=1))  # in a container
        assert queue.claim() is not None
        monkeypatch.setattr(processes, "_myself", me)
        queue._opened.swept = 0
        assert queue.claim() is not None
        queue._opened.swept = 0
        assert [job.claims for job in queue.claim_many(9)] == [2]
        assert queue.counts().leased == 3


def test_who_waits_sees_a_job_at_most_50_ms_after_it_was_put_without_spinning(tmp_path: Path) -> None:
    path = tmp_path / "q"

    def wait() -> None:
        with Queue(path) as queue:
            tell()
            for _ in range(6):
                cpu = time.process_time()
                job = queue.claim(wait=60)
                assert job is not None
                late = time.monotonic() - job.item
                job.done()
                tell((late, time.process_time() - cpu))

    with Queue(path) as queue, Crew() as crew:
        worker = crew.start(wait)
        worker.hear()
        answers = []
        for _ in range(6):
            time.sleep(0.3)
            assert queue.put(time.monotonic())
            answers.append(worker.hear())
        worker.result()
    late, cpu = (sorted(each) for each in zip(*answers, strict=True))
    assert late[len(late) // 2] < 0.05, late  # others use the machine, too
    assert cpu[len(cpu) // 2] < 0.06, cpu  # of 0.3 s


def test_who_waits_sees_when_a_delay_or_a_lease_is_over(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", lease=0.3) as queue:
        queue.put("a", delay=0.3)
        began = time.monotonic()
        assert queue.claim(wait=0) is None
        assert queue.claim(wait=10) is not None
        assert 0.29 < time.monotonic() - began < 0.5
        began = time.monotonic()
        assert queue.claim(wait=0.05) is None
        job = queue.claim(wait=10)
        assert 0.29 < time.monotonic() - began < 0.5
        assert job is not None
        assert job.claims == 2


def _drain(queue: Queue) -> list[Any]:
    items = []
    while (job := queue.claim()) is not None:
        with job:
            items.append(job.item)
    return items


@pytest.mark.parametrize("method", ["fork", "spawn", "thread"])
def test_each_job_is_done_by_one_of_several(method: str, tmp_path: Path) -> None:
    with Queue(tmp_path / "q", shards=4) as queue:
        queue.put_many(range(400))
        if method == "thread":
            found: list[list[Any]] = []
            threads = [threading.Thread(target=lambda: found.append(_drain(queue))) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            with multiprocessing.get_context(method).Pool(2) as pool:
                found = pool.map(_drain, [queue] * 2, 1)
        assert sorted(item for items in found for item in items) == list(range(400))
        assert queue.counts() == Counts(0, 0, 0, 400, 0)


def test_a_forked_child_and_its_parent_have_leases_of_their_own(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", lease=1000, shards=1) as queue:
        queue.put_many("abc")
        mine = queue.claim()

        def child() -> None:
            assert queue.claim() is not None
            assert mine is not None
            mine.done()  # it may be handed on

        run(child, [()])
        assert mine is not None
        with pytest.raises(LeaseLostError):
            mine.done()
        job = queue.claim(wait=5)  # that of the child, which is dead; or the last one
        assert job is not None
        assert {job.item, queue.claim(wait=5).item} == {"b", "c"}  # type: ignore[union-attr]


def test_after_a_reboot_all_leases_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Queue(tmp_path / "q", lease=10**6, durability="everysec", shards=2) as queue:
        queue.put_many(range(20))
        queue.put("later", delay=1000)
        jobs = queue.claim_many(10)
        jobs[0].done()
        queue.sync()
        place = after_reboot(tmp_path / "q", monkeypatch)
    with Queue(place) as queue:
        assert queue.counts() == Counts(10, 1, 9, 1, 0)
        found = queue.claim_many(99)
        assert Counter(job.claims for job in found) == {1: 10, 2: 9}
        for job in found:
            job.done()
        assert queue.counts() == Counts(0, 1, 0, 20, 0)


def test_put_of_many_processes_is_new_to_exactly_one_while_others_claim(tmp_path: Path) -> None:
    path = tmp_path / "q"

    def put(number: int) -> int:
        with Queue(path, unique="ever", shards=2) as queue:
            return sum(queue.put(item) for item in range(200))

    def claim(number: int) -> list[Any]:
        items = []
        with Queue(path, unique="ever", shards=2) as queue:
            while (job := queue.claim(wait=0.5)) is not None:
                items.append(job.item)
                job.done()
        return items

    def work(number: int) -> Any:
        return put(number) if number < 4 else claim(number)

    answers = run(work, [(number,) for number in range(6)])
    assert sum(answers[:4]) == 200
    assert sorted(item for items in answers[4:] for item in items) == list(range(200))
