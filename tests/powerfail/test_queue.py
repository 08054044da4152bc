"""A power failure at any moment while processes put, claim and end jobs: each job is where it was promised to be.

The short form takes a sample of engines and durabilities: another one with each seed.
"""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest

from rack.shard import ENGINES
from rack.store.record import DURABILITIES
from tests.powerfail import queues
from tests.powerfail.cases import Cases
from tests.powerfail.history import Past
from tests.powerfail.test_promises import Recorded, fast_disk, recorded, shim

__all__ = ["fast_disk", "recorded", "shim"]

pytestmark = pytest.mark.timeout(3000)

PLANS = list(product(ENGINES, DURABILITIES))
_SAMPLE = 2


class QueueCases(Cases):
    def examine(self, directory: Path, past: Past, since: float) -> str:
        return queues.examine(directory, self.run.plan, past, since)


def _cases(recorded: Recorded, tmp_path: Path, seconds: float, engine: str, durability: str, **plan: object) -> Cases:
    roles = ("working",) * 3
    return QueueCases(
        recorded(seconds, engine=engine, durability=durability, writers=0, roles=roles, **plan).run, tmp_path
    )


def test_each_job_is_in_one_state_that_was_promised(recorded: Recorded, tmp_path: Path, seed: int, long: bool) -> None:
    for engine, durability in PLANS if long else random.Random(seed).sample(PLANS, _SAMPLE):
        cases = _cases(recorded, tmp_path, 6 if long else 1.5, engine, durability)
        cases.try_many(600 if long else 12)
        print(cases.report())
        assert not cases.broken, cases.report()
        assert cases.counts["refused"] or cases.counts["some lost"] or cases.counts["nothing lost"]


def test_a_queue_that_does_not_sync_is_found_out(recorded: Recorded, tmp_path: Path) -> None:
    cases = _cases(recorded, tmp_path, 1.5, "sqlite3", "always", unsynced=True)
    cases.try_many(20)
    print(cases.report())
    assert len(cases.broken) > 5
