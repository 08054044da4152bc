"""Operations on one key by many processes are linearizable: also while files grow, processes die, wait or fork.

Each process notes every call before it and every answer behind it, with the time, in a file of its own; the checker is
:mod:`tests.support.linearizability`. An operation that a process was killed in may have happened or not; one that
ended with LockTimeoutError has not happened and will not.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import marshal
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, PersistentDict, PersistentSet
from rack.shard.base import View
from tests.support.linearizability import Operation, check, mixed
from tests.support.processes import Crew, assert_sound, run, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

KEYS = ["a", "b", "long" * 200]  # the last one is over 511 bytes
clock = time.monotonic_ns

Dict = PersistentDict[str, Any]
Set = PersistentSet[str]
Call = tuple[str, tuple[Any, ...], Callable[[], Any]]  # name and arguments for the checker, and what does it


class Log:
    """Where a process notes what it does: calls as (key, name, arguments, start), then (end, answer)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def call(self, key: str, name: str, arguments: tuple[Any, ...], function: Callable[[], Any]) -> Any:
        os.write(self._fd, marshal.dumps((key, name, arguments, clock())))
        try:
            answer = function()
        except LockTimeoutError:
            os.write(self._fd, marshal.dumps(()))
            return None
        end = clock()
        os.write(self._fd, marshal.dumps((end, answer)))
        return answer


def read_logs(directory: Path) -> list[Operation]:
    """Return the operations that all processes noted, without those that timed out."""
    history = []
    for number, log in enumerate(sorted(directory.glob("log-*"))):
        records = list(_records(log))
        for at, record in enumerate(records):
            if len(record) == 4:
                key, name, arguments, start = record
                ended = records[at + 1] if at + 1 < len(records) else (None, None)
                if ended:
                    history.append(Operation(number, key, name, arguments, start, *ended))
    return history


def _records(path: Path) -> Iterator[tuple[Any, ...]]:
    stream = io.BytesIO(path.read_bytes())
    with contextlib.suppress(EOFError):
        while True:
            yield marshal.load(stream)


def _deleted(store: Dict, key: str) -> bool:
    try:
        del store[key]
    except KeyError:
        return False
    return True


def _moved(store: Dict, key: str, number: int) -> int:
    """Transform the value in a transaction that takes it away and puts the new one."""
    data = store._dump_key(key)

    def move(view: View) -> int:
        old = view.get(data)
        assert view.delete(data) == (old is not None)
        assert not view.first(data, data + b"\0", 1)
        new = mixed(None if old is None else store._load(old), number)
        view.put(data, store._dump(new))
        return new

    moved: int = store._route(data).transact(move)
    return moved


def dict_calls(store: Dict, key: str, number: int, last: Any) -> list[Call]:
    """Return calls to choose from; ``number`` is of this call alone, ``last`` the value that was seen last."""
    return [
        ("get", (), lambda: store.get(key)),
        ("get", (), lambda: store.get_many([key]).get(key)),
        ("in", (), lambda: key in store),
        ("put", (number,), lambda: store.__setitem__(key, number)),
        ("put", (number,), lambda: store.update({key: number})),
        ("add", (number,), lambda: store.add(key, number)),
        ("delete", (), lambda: _deleted(store, key)),
        ("delete", (), lambda: store.delete_many([key]) == 1),
        ("pop", (), lambda: store.pop(key, None)),
        ("setdefault", (number,), lambda: store.setdefault(key, number)),
        *[("incr", (number,), lambda: store.incr(key, number))] * 3,
        *[("compare_and_set", (last, number), lambda: store.compare_and_set(key, last, number))] * 3,
        *[("transform", (number,), lambda: store.transform(key, lambda value: mixed(value, number)))] * 2,
        ("transform", (number,), lambda: _moved(store, key, number)),
    ]


def set_calls(store: Set, key: str, number: int, last: Any) -> list[Call]:
    # An element is there with the value True, as far as the checker is concerned.
    return [
        ("in", (), lambda: key in store),
        ("in", (), lambda: next(store.contains_many([key]))),
        *[("add", (True,), lambda: store.add(key))] * 2,
        ("add", (True,), lambda: store.add_many([key]) == 1),
        ("add", (True,), lambda: list(store.filter_new([key])) == [key]),
        ("put", (True,), lambda: store.update([key])),
        *[("delete", (), lambda: store.discard(key))] * 2,
        ("delete", (), lambda: store.discard_many([key]) == 1),
    ]


CALLS: dict[type, Callable[..., list[Call]]] = {PersistentDict: dict_calls, PersistentSet: set_calls}
READS = ("get", "in")


def work(store: Any, log: Log, process: int, seed: int, turns: Iterator[int], reads: bool = False) -> None:
    """Do operations at random on the hot keys; ``turns`` may do something in between."""
    rng = random.Random(seed * 1000 + process)
    calls = CALLS[type(store)]
    last: dict[str, Any] = dict.fromkeys(KEYS, 0)
    for turn in turns:
        if rng.random() < 0.3:
            time.sleep(rng.random() * 1e-4)  # or else a process does hundreds of operations before another has its turn
        key = rng.choice(KEYS)
        choices = calls(store, key, 1 + process + 100 * turn, last[key])
        name, arguments, function = rng.choice([each for each in choices if each[0] in READS] if reads else choices)
        answer = log.call(key, name, arguments, function)
        if type(answer) is int:
            last[key] = answer


def prove(directory: Path, store: Any, at_least: int) -> None:
    """Prove what the processes noted linearizable, up to what is there now."""
    with store:
        log = Log(directory / "log-end")
        for key in KEYS:
            log.call(key, "in", (), lambda key=key: key in store)
            if isinstance(store, PersistentDict):
                log.call(key, "get", (), lambda key=key: store.get(key))
    assert check(read_logs(directory)) >= at_least
    assert_sound(store)


@pytest.fixture
def turns(long: bool) -> int:
    """How many operations each process does."""
    return 10_000 if long else 1000


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("cls", [PersistentDict, PersistentSet])
def test_operations_of_many_processes_on_few_keys_are_linearizable(
    cls: Any, shards: int, tmp_path: Path, seed: int, turns: int
) -> None:
    def process(number: int) -> None:
        with cls(tmp_path / "store", shards=shards, flag="r" if number == 5 else "c") as store:
            work(store, Log(tmp_path / f"log-{number}"), number, seed, iter(range(turns)), number == 5)

    cls(tmp_path / "store", shards=shards).open().close()
    run(process, [(number,) for number in range(6)])
    prove(tmp_path, cls(tmp_path / "store"), 5 * turns)


def test_operations_are_linearizable_while_the_files_grow(tmp_path: Path, seed: int, turns: int) -> None:
    def process(number: int) -> None:
        with Dict(tmp_path / "store", shards=1) as store:

            def growing() -> Iterator[int]:
                for turn in range(turns):
                    if turn % 8 == number % 8:
                        store[f"{number} {turn}"] = bytes(30_000)
                    yield turn

            work(store, Log(tmp_path / f"log-{number}"), number, seed, growing())

    run(process, [(number,) for number in range(6)])
    prove(tmp_path, Dict(tmp_path / "store"), 6 * turns)


def test_operations_are_linearizable_while_processes_are_killed(tmp_path: Path, seed: int, long: bool) -> None:
    for turn in range(40 if long else 2):  # what each dead process may still do multiplies what the checker has to try
        place = tmp_path / str(turn)
        place.mkdir()
        _kill_some(place, seed + turn)
        prove(place, Dict(place / "store"), 50)


def _kill_some(place: Path, seed: int) -> None:
    rng = random.Random(seed)

    def process(number: int) -> None:
        with Dict(place / "store", shards=1) as store:
            tell()
            work(store, Log(place / f"log-{number:02}"), number, seed, itertools.count())

    numbers = itertools.count()
    with Crew() as crew:
        workers = [crew.start(process, next(numbers)) for _ in range(5)]
        for worker in workers:
            worker.hear()
        for _ in range(5):
            time.sleep(rng.uniform(0, 0.03))
            workers.pop(0).kill()
            workers.append(crew.start(process, next(numbers)))
            workers[-1].hear()
        for worker in workers:
            worker.kill()


class Slow:
    """A number whose addition takes a while: that is in the write transaction of ``incr``."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __radd__(self, other: int) -> int:
        time.sleep(0.04)
        return other + self.number


def _until_in_time(function: Callable[[], object]) -> None:
    while True:
        with contextlib.suppress(LockTimeoutError):
            function()
            return


def test_operations_are_linearizable_and_those_that_time_out_never_happen(
    tmp_path: Path, seed: int, long: bool
) -> None:
    def process(number: int) -> None:
        log = Log(tmp_path / f"log-{number}")
        slow = number < 2
        store = Dict(tmp_path / "store", shards=1, timeout=None if slow else 0.02)
        _until_in_time(store.open)
        try:

            def turns() -> Iterator[int]:
                for turn in range(600 if long else 40):
                    if slow:
                        delta, key = 1_000_000 + turn, KEYS[turn % 3]
                        log.call(key, "incr", (delta,), lambda: store.incr(key, Slow(delta)))  # noqa: B023
                        time.sleep(0.01)
                    yield turn

            work(store, log, number, seed, turns())
        finally:
            _until_in_time(store.close)

    Dict(tmp_path / "store", shards=1).open().close()
    run(process, [(number,) for number in range(6)])
    logs = [list(_records(log)) for log in tmp_path.glob("log-*")]
    assert () in itertools.chain(*logs), "nothing timed out"
    prove(tmp_path, Dict(tmp_path / "store"), 60)


def test_operations_are_linearizable_across_forks(tmp_path: Path, seed: int, turns: int) -> None:
    def process(number: int) -> None:
        with Dict(tmp_path / "store", shards=2) as store:
            work(store, Log(tmp_path / f"log-{number}"), number, seed, iter(range(turns // 4)))
            child = os.fork()
            me = 10 + number if not child else number
            log = Log(tmp_path / f"log-{me}-forked")
            try:
                work(store, log, me, seed, iter(range(turns, turns + turns // 2)))
            except BaseException:
                if not child:
                    os._exit(1)
                raise
            if not child:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0

    run(process, [(number,) for number in range(4)])
    prove(tmp_path, Dict(tmp_path / "store"), 4 * turns)
