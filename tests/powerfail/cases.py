"""Records a run, makes cases of power failure from it, and opens each as the first process afterwards would."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rack import PersistentDict
from rack.errors import CorruptShardError, StoreNotFoundError
from rack.store.record import Record
from tests.powerfail import disk
from tests.powerfail.history import NEVER, Log, LostError, Past
from tests.powerfail.recorder import Recorder, record
from tests.powerfail.sessions import SLACK, closed_by, kept_by
from tests.powerfail.writers import Plan
from tests.support.processes import assert_sound

LIMIT = 60.0  # seconds that opening and reading a store may take
OPERATIONS = 400  # that a run has at least


class CrashError(AssertionError):
    """The interpreter died, or hung, or raised what it should not."""


@dataclass
class Run:
    """A recorded run of writers."""

    directory: Path
    plan: Plan
    recorder: Recorder
    before: dict[str, Any] | None = None  # what the store had at first; None: there was none
    _pasts: dict[tuple[int, str | None], Past] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        shim: Path,
        directory: Path,
        seconds: float,
        pause: float = 0.03,
        left: dict[str, bytes] | None = None,
        **plan: Any,
    ) -> Run:
        """Let writers write for so long from when the store is open, with some killed at random.

        :param pause: seconds between moments. The longer, the less of the time everybody stands still for one.
        :param left: the files that a power failure has left; the writers, and their keys, are to be others.
        """
        before = None
        if left is not None:
            before = content_of(left, directory / "before")
            disk.put(left, directory / "run" / "place")
            (directory / "run" / "gate").write_bytes(b"%8d" % plan["first"])  # so that the counters are others, too
        recorder = Recorder(shim, directory / "run")
        name = str(recorder.place.resolve() / "store")
        run = cls(directory, Plan(name=name, logs=str(recorder.logs), **plan), recorder, before)
        rng = random.Random(run.plan.seed)
        with recorder:
            recorder.start("-m", "tests.powerfail.program", run.plan.dump())
            run._record_until(lambda: run._logged(b'"opened"') > 0, rng)
            for _ in range(4):
                record(recorder, rng, seconds / 4, pause)
                run._kill_some(rng)
            if not run.plan.roles:
                run._record_until(lambda: run._logged(b'"end"') > OPERATIONS, rng)  # where the machine is slow
            recorder.stop()
        listing = {file.name: file.stat().st_ino for file in recorder.place.iterdir()}
        assert disk.names_after(run.history.lines) == listing, "the shim has missed what was done to a name"
        return run

    def _record_until(self, is_enough: Callable[[], bool], rng: random.Random) -> None:
        deadline = time.monotonic() + LIMIT
        while not is_enough():
            assert time.monotonic() < deadline, "the writers do too little"
            record(self.recorder, rng, 0.2)

    def _logged(self, word: bytes) -> int:
        return sum(log.read_bytes().count(word) for log in self.recorder.logs.iterdir())

    def _kill_some(self, rng: random.Random) -> None:
        for log in self.recorder.logs.iterdir():
            if (log.name != "0" or self.plan.may_kill_all) and rng.random() < 0.3:
                pid = Log.read(log, log.stat().st_size).pid
                if self.recorder.is_ours(pid):
                    self.recorder.kill(pid)

    @cached_property
    def history(self) -> disk.History:
        return disk.History.of(self.recorder)

    @cached_property
    def first_open(self) -> int:
        """The number of the first moment at which the store was open."""
        return next(number for number in range(len(self.recorder.moments)) if self.past(number).was_opened)

    def past(self, number: int, store: str | None = None) -> Past:
        """Return what the writers had done by a moment, to all stores or to one."""
        key = number, store
        if key not in self._pasts:
            moment = self.recorder.moments[number]
            self._pasts[key] = Past(self.recorder.logs, moment, self.plan.shards, store, self.before)
        return self._pasts[key]

    def failures(self, rng: random.Random) -> list[int]:
        """Return the numbers of moments for cases: all there are, but few from before the store was there."""
        first = self.first_open
        numbers = list(range(first, len(self.recorder.moments)))
        rng.shuffle(numbers)
        return numbers[:40] + rng.sample(range(first), min(first, 2))

    def least_time(self, number: int, store: str | None = None) -> float:
        """Return the time by which what was acknowledged must be there after a power failure at a moment."""
        if self.plan.durability == "always":
            return NEVER
        past = self.past(number, store)
        failure = self.recorder.moments[number]
        synced = max(past.synced, closed_by(past.sessions, self.plan.engine))
        if self.plan.durability == "process":
            return synced
        if self.plan.roles:
            return max(synced, kept_by(past.sessions, failure.time, self._stopped))
        since = failure.time - 1 - SLACK
        return max(synced, since - self._stopped(since, failure.time))

    def _stopped(self, since: float, until: float) -> float:
        """Return for how much of a time all writers were stopped."""
        then = [moment.waited for moment in self.recorder.moments if moment.time < since]
        now = [moment.waited for moment in self.recorder.moments if moment.time <= until]
        return (now[-1] if now else 0) - (then[-1] if then else 0)


class Cases:
    """Counts what came of cases, and keeps those that broke a promise."""

    def __init__(self, run: Run, kept: Path) -> None:
        self.run = run
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self._kept = kept

    def try_many(self, count: int, boot: str | None = "second") -> None:
        """Have so many power failures at moments of the run (``boot`` None: and nobody notices)."""
        rng = random.Random(self.run.plan.seed)
        failures = self.run.failures(rng)
        for case in range(count):
            seed = f"{self.run.plan.seed} {case}"
            number = failures[case % len(failures)]
            moments = self.run.recorder.moments[: number + 1]
            left = disk.leave(self.run.history, moments, random.Random(seed), noise=True)
            self.try_one(f"case {case} at moment {number}", left, number, boot)

    def try_one(
        self, title: str, left: dict[str, bytes], number: int, boot: str | None, since: float | None = None
    ) -> None:
        """Open the store from these files; they are kept if it does not serve what it should."""
        directory = self.run.directory / "case"
        disk.put(left, directory)
        found = _id_of(left)
        past = self.run.past(number, found)
        least = self.run.least_time(number, found) if since is None else since

        def look() -> str:
            if boot is not None:
                boot_again(boot)
            if found is not None and found in past.stores and past.was_opened and found != past.stores[-1]:
                raise LostError("it is a store that was replaced")
            return self.examine(directory, past, least)

        try:
            outcome = in_child(look)
        except (LostError, CrashError) as error:
            outcome = type(error).__name__
            self.broken.append(f"{title}: {error}")
            if len(self.broken) <= 3:
                disk.put(left, self._kept / title.replace(" ", "-"))
                self.broken[-1] += f" (files: {self._kept})"
        self.counts[outcome] += 1
        shutil.rmtree(directory)

    def examine(self, directory: Path, past: Past, since: float) -> str:
        """Open the store, look at it, and return what came of it, in a word."""
        return examine(directory, self.run.plan, past, since)

    def report(self) -> str:
        text = f"{self.run.plan.engine}, {self.run.plan.durability}, seed {self.run.plan.seed}: {dict(self.counts)}"
        return "\n".join([text, *self.broken[:5]])


def _id_of(left: dict[str, bytes]) -> str | None:
    """Return the id of the store that is there."""
    try:
        return str(json.loads(left["store.rack"])["id"])
    except (KeyError, ValueError):
        return None


def in_child(function: Callable[[], str]) -> str:
    """Return what the function returns in a process of its own.

    :raises LostError: raised there.
    :raises CrashError: it ended otherwise.
    """
    with tempfile.TemporaryFile() as errors:
        here, there = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(here)
            os.dup2(errors.fileno(), 2)
            faulthandler.enable(errors)
            answer: tuple[str, str]
            try:
                answer = ("", function())
            except LostError as error:
                answer = ("lost", str(error))
            except BaseException:
                answer = ("failed", traceback.format_exc())
            try:
                os.write(there, pickle.dumps((answer[0], answer[1][:4000])))
            finally:
                os._exit(0)
        os.close(there)
        in_time = True
        try:
            in_time = bool(select.select([here], [], [], LIMIT)[0])
            data = os.read(here, 65536) if in_time else b""
        finally:
            os.close(here)
            if not in_time:
                os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not data:
            errors.seek(0)
            raise CrashError(f"ended with {code if in_time else 'a hang'}: {errors.read().decode()[-2000:]}")
    kind, text = pickle.loads(data)
    if kind:
        raise (LostError if kind == "lost" else CrashError)(text)
    return str(text)


def boot_again(boot: str) -> None:
    """Have this process live on a system that has booted again."""
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("rack.system.boot").boot_id = lambda: boot  # type: ignore[attr-defined]


def content_of(left: dict[str, bytes], directory: Path) -> dict[str, Any]:
    """Return what a store serves after a power failure that has left these files."""
    disk.put(left, directory)

    def read() -> str:
        boot_again("second")
        with PersistentDict[str, Any](directory / "store") as store:
            (directory / "content").write_bytes(pickle.dumps(_all_of(store)))
        return ""

    in_child(read)
    content: dict[str, Any] = pickle.loads((directory / "content").read_bytes())
    shutil.rmtree(directory)
    return content


def examine(directory: Path, plan: Plan, past: Past, since: float) -> str:
    """Open the store; return what came of it, in a word.

    :raises LostError: it serves what it must not, or not what it must.
    """
    may_be_refused = plan.engine == "lmdb" and since < NEVER and past.may_be_refused(since)
    durability = None if plan.durability == "mixed" else plan.durability
    store: PersistentDict[str, Any] = PersistentDict(directory / "store", flag="w", durability=durability)
    try:
        store.open()
    except StoreNotFoundError:
        if past.was_opened or past.before is not None:
            raise LostError("the store is gone") from None
        if past.stores:
            return "removed"  # its shards may be there, and in the way of another one
        with PersistentDict(directory / "store", engine=plan.engine, key_serdes="str") as store:
            assert not len(store)
        assert_sound(store)
        return "not made yet"
    except CorruptShardError as error:
        if may_be_refused:
            return "refused"
        raise LostError(f"damaged: {error}") from error
    with store:
        store.close()  # the other one of two
        lost = past.check_prefix(_all_of(store), since)
        store.update((f"after/{number}", number) for number in range(100))
    _check_made(directory, past, plan)
    try:
        assert_sound(store)
    except (AssertionError, CorruptShardError) as error:
        raise LostError(f"not sound: {error}") from error
    return "some lost" if lost else "nothing lost"


def _all_of(store: PersistentDict[str, Any]) -> dict[str, Any]:
    try:
        served = dict(store.items())
        count = len(store)
    except CorruptShardError as error:
        raise LostError(f"opened, and then: {error}") from error
    if count != len(served):
        raise LostError(f"it counts {count} entries, and has {len(served)}")
    return {name: data for name, data in served.items() if not name.startswith("after/")}


def _check_made(directory: Path, past: Past, plan: Plan) -> None:
    """What was made of the store, and acknowledged, is there as a whole; what was not, may be there as a whole."""
    for name, operation in past.made.items():
        try:
            with PersistentDict(directory / name, flag="r", key_serdes="str") as made:
                past.check_prefix(_all_of(made), operation.begin)
                assert made.check() == len(made)
        except StoreNotFoundError:
            if operation.end < NEVER:
                raise LostError(f"{name} is gone") from None
            continue
        except CorruptShardError as error:
            raise LostError(f"{name} is damaged: {error}") from error
        found = Record.read(str(directory / name)).durability
        if found != plan.durability:
            raise LostError(f"{name} has the durability {found}")
