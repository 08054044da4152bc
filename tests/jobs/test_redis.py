"""A queue on a Redis server and on a cluster: what it promises to one process, and to several that are killed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from rack import PersistentQueue, UnsupportedOperation
from tests.conformance.served import Folder
from tests.jobs import test_queue as of_one_process
from tests.processes import test_queue as of_several
from tests.support.killed_jobs import check_kills
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


def test_no_job_is_lost_or_done_twice_while_workers_are_killed(
    tmp_path: Any, tmp_path_factory: pytest.TempPathFactory, seed: int, long: bool
) -> None:
    log = tmp_path_factory.mktemp("log") / "log"
    check_kills(tmp_path / "q", log, 20 if long else 6, 150, random.Random(seed), shards=4)
