"""Files of a store that are missing or cut short, by exhaustion: an error of Rack's or the right store, and soon."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, RackError, repair, verify
from rack.shard import shard_class
from tests.support.processes import as_the_same_files, run
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Store = PersistentDict[str, Any]
CONTENT = {"a": 1, "b": "two", "c" * 1000: [3], "d": "4" * 3000}
SECONDS = 20  # that an opening may take, on a machine that is busy
PAIRS = 6  # of damages, chosen at random; all of them with --long
#: What is done to a file: how long it is afterwards; None: it is removed.
DAMAGES: dict[str, Callable[[int], int | None]] = {
    "removed": lambda size: None,
    "empty": lambda size: 0,
    "half": lambda size: size // 2,
}
Damage = tuple[str, str]  # a file's name, and what is done to it


class HangError(BaseException):
    """It took too long. No Exception, so that nothing takes it for a failure of its own."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise HangError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def make(path: Path, durability: str, state: str) -> None:
    """Make a store. Its maker closes it, or is killed; and then the system may be booted again."""
    killed = state != "closed"

    def fill() -> None:
        store = Store(path, shards=2, durability=durability).open()
        store.update(CONTENT)
        if killed:
            os._exit(0)
        store.close()

    if not killed:
        fill()
        return
    child = os.fork()
    if not child:
        try:
            fill()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    if state == "rebooted":
        record = path.with_name("store.rack-boot")
        content = json.loads(record.read_bytes()[:128])
        record.write_bytes(json.dumps(content | {"boot": "earlier"}).encode().ljust(128) + record.read_bytes()[128:])


def outcome(action: str, path: Path) -> str:
    """Open the store, or verify or repair it; return in words what came of it."""
    try:
        with limit(SECONDS):
            if action == "verify":
                report = verify(path)
                return "sound" if report.sound else "findings"
            if action == "repair":
                repair(path, path.with_name("saved"))
                with Store(path.with_name("saved"), flag="r") as store:
                    return _known(dict(store))
            with Store(path, flag=action, timeout=1) as store:
                found = dict(store)
                if action != "r":
                    store["new"] = 1
                    assert store["new"] == 1
            return _known(found)
    except RackError as error:
        return f"refused: {type(error).__name__}"
    except HangError:
        return "HANGS"
    except BaseException as error:
        return f"FOREIGN: {error!r}"


def _known(found: dict[str, Any]) -> str:
    if found == CONTENT:
        return "whole"
    if not found:
        return "empty"
    return "part" if found.items() <= CONTENT.items() else f"WRONG: {found}"


def try_all(source: Path, place: Path, cases: list[tuple[Damage, ...]]) -> list[tuple[str, tuple[Damage, ...], str]]:
    """Return what came of each action in each case."""
    found = []
    for case in cases:
        for action in ("r", "w", "c", "n", "verify", "repair"):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(source, place)
            as_the_same_files(place / "store")
            for name, damage in case:
                file = place / name
                size = DAMAGES[damage](file.stat().st_size)
                if size is None:
                    file.unlink()
                else:
                    os.truncate(file, size)
            found.append((action, case, outcome(action, place / "store")))
    return found


def is_right(action: str, case: tuple[Damage, ...], what: str, state: str, suffix: str) -> bool:
    """Return whether that is what may come of an action."""
    damage = dict(case)
    manifest = damage.get("store.rack", "whole")
    no_shards = all(damage.get(f"store-{number:04d}{suffix}") == "removed" for number in range(2))
    if action == "n" and manifest != "removed":
        return what == ("empty" if manifest == "whole" else "refused: ManifestError")
    if action in ("r", "w", "c", "n") and manifest == "removed":
        if action in ("r", "w"):
            return what == "refused: StoreNotFoundError"
        return what == ("empty" if no_shards else "refused: CorruptShardError")
    if action == "verify":
        return what in ("sound", "findings") or (manifest == "removed" and no_shards and what.startswith("refused"))
    if what in ("whole", "refused: CorruptShardError", "refused: ManifestError"):
        return True
    if what in ("part", "empty"):  # of SQLite's log nothing tells that it is missing
        return action == "repair" or (state != "closed" and any(name.endswith("-wal") for name in damage))
    if what == "refused: UncleanError":
        return state == "rebooted" or "store.rack-boot" in damage
    return action == "repair" and no_shards and what == "refused: StoreNotFoundError"


@pytest.mark.one_in(2)
@pytest.mark.damages
@pytest.mark.parametrize("state", ["closed", "killed", "rebooted"])
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_files_that_are_missing_or_cut_short(
    tmp_path: Path,
    durability: str,
    state: str,
    engine: str,
    long: bool,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rack.care.guess.MAX_SHARDS", 4)  # looking for more takes far longer than all the rest
    source = tmp_path / "source"
    source.mkdir()
    make(source / "store", durability, state)
    suffix = shard_class(engine).suffix
    names = sorted(os.listdir(source))
    tried = names if long else [name for name in names if "-0001" not in name]  # both shards are alike
    single: list[Damage] = [(name, damage) for name in tried for damage in DAMAGES]
    pairs = [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]
    found_missing = [((f"store-0000{suffix}", "removed"), ("store.rack-boot", damage)) for damage in DAMAGES]
    if not long:
        pairs = random.Random(seed).sample(pairs, PAIRS)
    shards: list[Damage] = [(f"store-{number:04d}{suffix}", "removed") for number in range(2)]
    more = [[*shards], [*shards, ("store.rack", "removed")], [(name, "removed") for name in names]]
    cases = [(), *((damage,) for damage in single), *found_missing, *pairs, *map(tuple, more)]
    (found,) = run(try_all, [(source, tmp_path / "place", cases)], limit=600)
    wrong = [each for each in found if not is_right(*each, state, suffix)]
    assert not wrong, wrong[:20]
    plain = {what for action, case, what in found if not case and action != "n"}
    assert plain <= {"whole", "sound"} or state == "rebooted"
