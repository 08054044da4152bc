"""A queue on a Redis server and on a cluster: what it promises to one process, and to several that are killed."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentQueue, UnsupportedOperation
from tests.conformance.served import Folder
from tests.jobs import test_queue as of_one_process
from tests.processes import test_queue as of_several
from tests.support.processes import Crew
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server

#: Tests of queues in files that hold on a server, too: all but those that set clocks.
ONE_PROCESS = """
a_handle_can_be_pickled_and_keeps_what_it_was_told
a_job_is_done_at_the_end_of_its_block_and_released_by_an_exception
a_job_that_comes_first_is_passed_over_less_often_than_there_are_shards
a_job_that_was_ended_in_its_block_is_left_alone
a_key_that_waits_or_is_leased_is_refused_and_can_be_put_again_when_it_is_done
a_key_that_was_ever_put_is_refused_for_ever
a_queue_is_nothing_else_and_nothing_else_is_a_queue
an_item_that_cannot_be_read_has_failed
failed_jobs_wait_again_when_they_are_retried
join_returns_when_nothing_is_left_to_be_done
keys_are_equal_as_in_a_dict_and_may_be_long
the_order_is_by_priority_and_then_by_age
without_keys_all_are_put
"""
SEVERAL = """
a_forked_child_and_its_parent_have_leases_of_their_own
put_of_many_processes_is_new_to_exactly_one_while_others_claim
the_job_of_a_dead_process_is_claimed_again_at_once
"""
for module, names in ((of_one_process, ONE_PROCESS), (of_several, SEVERAL)):
    for name in names.split():
        globals()[f"test_{name}"] = getattr(module, f"test_{name}")

_numbers = itertools.count()


@pytest.fixture(params=["server", "cluster"])
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Any]:
    """In place of a folder."""
    where: Server | Cluster = request.getfixturevalue(request.param)
    return Folder(f"{where.url}?name=jobs{next(_numbers)}:")  # type: ignore[return-value]


def test_a_queue_is_of_the_ordered_layout(tmp_path: Any) -> None:
    with PersistentQueue[int](tmp_path / "q", shards=2) as queue:
        assert queue.stat().layout == "ordered"
    with pytest.raises(UnsupportedOperation, match="ordered"):
        PersistentQueue[int](f"{tmp_path / 'other'}&layout=hash").open()


def _work(url: str, log: Path) -> None:
    """Claim jobs until none is left, and note what is done with each; of half of them, put another one."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chance = random.Random(os.getpid())
    with PersistentQueue[int](url, lease=600.0) as queue:
        while (job := queue.claim(wait=0.3)) is not None or not queue.join(timeout=0.01):
            if job is None:
                continue
            os.write(file, f"claimed {job.item} {job.claims}\n".encode())
            if job.item < 10_000 and job.claims == 1 and chance.random() < 0.5:
                queue.put(job.item + 10_000)
            time.sleep(chance.random() * 0.004)
            job.done()
            os.write(file, f"done {job.item} {job.claims}\n".encode())


def test_no_job_is_lost_or_done_twice_while_workers_are_killed(
    tmp_path: Any, tmp_path_factory: pytest.TempPathFactory, seed: int, long: bool
) -> None:
    url, log, rng = tmp_path / "q", tmp_path_factory.mktemp("log") / "log", random.Random(seed)
    kills, jobs = (20, 3000) if long else (6, 1000)
    with PersistentQueue[int](url, shards=4) as queue:
        assert queue.put_many(range(jobs)) == jobs
    with Crew() as crew:
        workers = [crew.start(_work, url, log) for _ in range(4)]
        for number in range(kills):
            time.sleep(0.02 + rng.random() * 0.08)
            workers[number % 4].kill()
            workers[number % 4] = crew.start(_work, url, log)
        for worker in workers:
            worker.result()
    lines = [line.split() for line in log.read_text().splitlines()]
    claims = Counter(int(item) for what, item, _ in lines if what == "claimed")
    done = Counter(int(item) for what, item, _ in lines if what == "done")
    with PersistentQueue[int](url) as queue:
        counts = queue.counts()
    assert counts.waiting == counts.delayed == counts.leased == counts.failed == 0
    assert claims.keys() >= set(range(jobs))
    assert len(claims) <= counts.done <= len(claims) + kills  # a claim may not have been noted any more
    assert max(done.values()) == 1
    assert sum(claims.values()) - len(claims) <= kills  # at most one for each kill
