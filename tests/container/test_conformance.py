"""Every container on every engine with 1, 2 and 7 shards keeps the promises of the conformance suite."""

from __future__ import annotations

from rack.shard import ENGINES
from tests.conformance.atomic_suite import AtomicSuite
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.dict_suite import DictSuite
from tests.conformance.life_suite import LifeSuite
from tests.conformance.made_suite import MadeSuite
from tests.conformance.range_suite import RangeSuite
from tests.conformance.raw import RAW
from tests.conformance.set_suite import SetSuite
from tests.conformance.shardview_suite import ShardViewSuite
from tests.conformance.snapshot_suite import SnapshotSuite
from tests.conformance.views_suite import ViewsSuite
from tests.support.processes import end_sound as end_sound

SUITES: list[type[ContainerSuite]] = [LifeSuite, MadeSuite, SetSuite, DictSuite, AtomicSuite, ViewsSuite]
SUITES += [RangeSuite, ShardViewSuite, SnapshotSuite]

for engine in ENGINES:
    for suite in SUITES:
        name = f"Test{suite.__name__.removesuffix('Suite')}{engine.title()}"
        globals()[name] = type(name, (suite,), {"engine": engine, "raw": RAW[engine], "__module__": __name__})
