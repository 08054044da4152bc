"""Power failures while two parties do what may not go together; see tests/powerfail/roles.py.

The short form takes a sample of the pairs: another one with each seed.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from rack.shard import ENGINES
from tests.powerfail import disk
from tests.powerfail.test_promises import Recorded, fast_disk, recorded, shim

__all__ = ["fast_disk", "recorded", "shim"]

pytestmark = pytest.mark.timeout(3000)

#: What a plan has, for how many seconds it is recorded, and with which durabilities.
PAIRS: dict[str, tuple[dict[str, Any], float, tuple[str, ...]]] = {
    "one that pauses": ({"roles": ("pausing",)}, 3, ("everysec", "process")),
    "a reader that stays, or leaves last": ({"roles": ("pausing", "reading")}, 4, ("everysec", "process")),
    "readers and writers": ({"roles": ("reading", "reading"), "writers": 2}, 4, ("everysec", "process")),
    "forked children": ({"roles": ("forking",)}, 4, ("everysec", "process")),
    "forked children and a writer": ({"roles": ("forking",), "writers": 1}, 4, ("everysec", "process")),
    "one that is quiet": (
        {"roles": ("quiet",), "rotate_at": 4 << 20, "checkpoint_pages": 4000, "pause": 0.2},
        6,
        ("everysec",),
    ),
    "a store replaced while it is open": ({"roles": ("replacing", "holding", "holding")}, 4, ("everysec", "always")),
    "slow bases": ({"bases": "slow", "writers": 2}, 4, ("everysec",)),
    "bases on a full disk": ({"bases": "full", "writers": 2}, 4, ("everysec",)),
    "durability switched": ({"roles": ("switching",)}, 5, ("mixed",)),
    "stores made of it": ({"roles": ("making",), "writers": 1}, 4, ("everysec", "process")),
}
PLANS = [
    (name, engine, durability)
    for name, (plan, _, durabilities) in PAIRS.items()
    for durability in durabilities
    for engine in ENGINES
    if not (plan.get("bases") and engine == "sqlite3")
]
_SAMPLE = 2


def _try(name: str, engine: str, durability: str, recorded: Recorded, count: int, longer: float = 1) -> Counter[str]:
    plan, seconds, _ = PAIRS[name]
    cases = recorded(seconds * longer, engine=engine, durability=durability, **({"writers": 0} | plan))
    cases.try_many(count)
    print(f"{name}: {cases.report()}")
    assert not cases.broken, f"{name}: {cases.report()}"
    return cases.counts


def test_with_process_an_lmdb_store_that_was_synced_or_closed_is_served_and_others_are_refused(
    recorded: Recorded, long: bool
) -> None:
    counts = _try("one that pauses", "lmdb", "process", recorded, 1000 if long else 20)
    assert counts["refused"]
    assert counts["nothing lost"]


def test_pairs_of_roles_keep_what_is_promised(recorded: Recorded, seed: int, long: bool) -> None:
    for name, engine, durability in PLANS if long else random.Random(seed).sample(PLANS, _SAMPLE):
        _try(name, engine, durability, recorded, *((1000, 3) if long else (25, 1)))


def test_a_keeper_that_looks_too_rarely_is_found_out(recorded: Recorded, seed: int) -> None:
    plan, _, _ = PAIRS["one that is quiet"]
    cases = recorded(3.5, engine="lmdb", durability="everysec", writers=0, keeper=12.0, **plan)
    run, rng = cases.run, random.Random(seed)
    for number in range(len(run.recorder.moments))[-8:]:  # when it should have looked before
        left = disk.leave(run.history, run.recorder.moments[: number + 1], rng)
        cases.try_one(f"moment {number}", left, number, "second")
    print(cases.report())
    assert cases.broken
