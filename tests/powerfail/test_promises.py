"""A power failure at any moment, for each engine and durability: what is promised is there, and damage is not served.

Each test records a run of writers, and makes cases from it (see tests/powerfail). What came of them is printed.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rack.shard import ENGINES
from rack.store.record import DURABILITIES
from tests.powerfail import disk
from tests.powerfail.cases import Cases, Run
from tests.powerfail.history import NEVER
from tests.powerfail.recorder import Recorder, build_shim, record

pytestmark = pytest.mark.timeout(1500)

Recorded = Callable[..., Cases]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def fast_disk() -> Iterator[Path]:
    """A directory in memory, if there is one: here nobody needs that a sync takes its time."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(prefix="rack-power-", dir=memory if usable else None) as directory:
        yield Path(directory)


@pytest.fixture
def recorded(shim: Path, fast_disk: Path, tmp_path: Path, seed: int) -> Recorded:
    def run(seconds: float, **plan: Any) -> Cases:
        directory = Path(tempfile.mkdtemp(dir=fast_disk))
        return Cases(Run.of(shim, directory, seconds, seed=seed, **plan), tmp_path)

    return run


def _count(long: bool) -> int:
    return 1000 if long else 30


@pytest.mark.parametrize("engine", ENGINES)
def test_with_always_nothing_acknowledged_is_lost(engine: str, recorded: Recorded, long: bool) -> None:
    cases = recorded(10 if long else 2, engine=engine, durability="always")
    cases.try_many(_count(long))
    print(cases.report())
    assert not cases.broken, cases.report()
    assert cases.counts["nothing lost"] > _count(long) / 2


def test_with_process_an_sqlite_store_is_as_at_one_moment_since_the_last_sync(recorded: Recorded, long: bool) -> None:
    cases = recorded(10 if long else 2, engine="sqlite3", durability="process")
    cases.try_many(_count(long))
    print(cases.report())
    assert not cases.broken, cases.report()
    assert cases.counts["some lost"] > _count(long) / 10


def test_with_process_an_lmdb_store_is_refused_or_serves_what_was_there_since_the_last_sync(
    recorded: Recorded, long: bool
) -> None:
    cases = recorded(10 if long else 2, engine="lmdb", durability="process")
    cases.try_many(_count(long))
    print(cases.report())
    assert not cases.broken, cases.report()
    assert cases.counts["refused"]  # they are always writing: test_roles.py has one that is served


@pytest.mark.parametrize("engine", ENGINES)
def test_with_everysec_a_store_is_as_at_one_moment_of_about_the_last_second(
    engine: str, recorded: Recorded, long: bool
) -> None:
    cases = recorded(20 if long else 3, engine=engine, durability="everysec")
    cases.try_many(_count(long))
    print(cases.report())
    assert not cases.broken, cases.report()
    assert cases.counts["some lost"] > _count(long) / 10


@pytest.mark.one_in(2)
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_when_all_processes_die_at_once_and_the_system_lives_nothing_acknowledged_is_lost(
    engine: str, durability: str, recorded: Recorded, long: bool
) -> None:
    cases = recorded(4 if long else 1, engine=engine, durability=durability)
    run = cases.run
    for number in run.failures(random.Random(run.plan.seed))[: 400 if long else 12]:
        left = disk.now(run.history, run.recorder.moments[number])
        cases.try_one(f"moment {number}", left, number, boot=None, since=NEVER)
    print(cases.report())
    assert not cases.broken, cases.report()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("engine", "durability"),
    [
        pair for pair in product(ENGINES, DURABILITIES) if pair != ("lmdb", "process")
    ],  # is refused, which writes nothing
)
def test_a_second_power_failure_while_the_store_is_opened_again_changes_nothing(
    engine: str, durability: str, recorded: Recorded, shim: Path, fast_disk: Path, long: bool
) -> None:
    cases = recorded(4 if long else 1.2, engine=engine, durability=durability)
    run = cases.run
    rng = random.Random(run.plan.seed)
    for number in run.failures(rng)[: 40 if long else 2]:
        left = disk.leave(run.history, run.recorder.moments[: number + 1], rng)
        for again, files in enumerate(_fail_while_opening(left, run.plan.durability, shim, fast_disk / "again", rng)):
            cases.try_one(f"moment {number}, then {again}", files, number, boot="third")
    print(cases.report())
    assert not cases.broken, cases.report()
    assert cases.counts.total() > 2


def _fail_while_opening(
    left: dict[str, bytes], durability: str, shim: Path, directory: Path, rng: random.Random
) -> list[dict[str, bytes]]:
    """Return what power failures leave while a store is opened that one has left so."""
    disk.put(left, directory / "place")
    recorder = Recorder(shim, directory, slowness=0.004)
    with recorder:
        recorder.start("-m", "tests.powerfail.opener", recorder.place.resolve() / "store", durability)
        record(recorder, rng, seconds=2, pause=0.001)
        recorder.wait(60)
    history = disk.History.of(recorder)
    files = [
        disk.leave(history, recorder.moments[: number + 1], rng)
        for number in rng.choices(range(len(recorder.moments)), k=4 if recorder.moments else 0)
    ]
    shutil.rmtree(directory)
    return files


def test_a_store_that_was_written_to_between_two_power_failures_keeps_what_there_was_after_the_first(
    recorded: Recorded, seed: int, long: bool
) -> None:
    """The short form takes one of the engines."""
    for turn, engine in enumerate(list(ENGINES) * 5 if long else random.Random(seed).sample(list(ENGINES), 1)):
        first = recorded(4 if long else 0.7, engine=engine, durability="everysec").run
        moments = first.recorder.moments[: len(first.recorder.moments) - turn]
        left = disk.leave(first.history, moments, random.Random(seed + turn))
        cases = recorded(4 if long else 1.5, engine=engine, durability="everysec", boot="second", first=1000, left=left)
        assert cases.run.before is not None
        cases.try_many(100 if long else 10, boot="third")
        print(cases.report())
        assert not cases.broken, cases.report()


# The tests above can fail: without what they are for, damage and loss are found.


@pytest.mark.one_in(2)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_store_that_does_not_sync_is_found_out(engine: str, recorded: Recorded) -> None:
    cases = recorded(1.5, engine=engine, durability="always", unsynced=True)
    cases.try_many(30)
    print(cases.report())
    assert len(cases.broken) > 10


def test_an_lmdb_store_that_is_not_verified_is_found_out(recorded: Recorded) -> None:
    cases = recorded(1.5, engine="lmdb", durability="process")
    cases.try_many(30, boot=None)
    print(cases.report())
    assert cases.broken
