"""Rounds: every contestant in turn, timed with the garbage collector off, on stores that are removed afterwards."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench.rival import Rival
from bench.workloads import Workload

PATIENCE = 120  # seconds that writer processes wait for each other
PRELOAD = ["bench.__main__", "rack", "diskcache", "sqlitedict", "lmdbm"]


@dataclass
class Series:
    """What one contestant did in one benchmark: seconds an operation, round by round."""

    label: str
    ops: int
    times: list[float] = field(default_factory=list)
    disk: int = 0  # bytes on disk after close, in the last round
    problem: str = ""  # why there are no times
    error: str = ""

    @property
    def time(self) -> float:
        """Median seconds an operation."""
        return median(self.times)


@dataclass
class Result:
    """One benchmark: the first series is what the others are compared with."""

    name: str
    title: str
    series: list[Series]

    def ratios(self, label: str) -> list[float]:
        """How many times faster the first one was, round by round; empty if either has no times."""
        first = self.series[0]
        for other in self.series:
            if other.label == label and not other.problem and not first.problem:
                return [theirs / ours for ours, theirs in zip(first.times, other.times, strict=True)]
        return []

    def ratio(self, label: str) -> float | None:
        """Median of the ratios."""
        ratios = self.ratios(label)
        return median(ratios) if ratios else None


@contextmanager
def no_gc() -> Iterator[None]:
    """Collect garbage now, and not again inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def disk_usage(directory: Path) -> int:
    """Bytes allocated to the files below `directory`."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def measure(workload: Workload, rival: Rival, directory: Path, ops: int, fill: bool) -> float:
    """Seconds for the timed part, in this process."""
    store = copy.copy(rival)
    store.open(directory, workload.capacity(ops), workload.kind)
    try:
        if fill:
            workload.prepare(store, ops)
        workload.warm(store, ops)
        with no_gc():
            start = perf_counter()
            answer = workload.run(store)
            seconds = perf_counter() - start
        workload.verify(store, answer)
    finally:
        store.close()
    return seconds


def write(workload: Workload, rival: Rival, directory: Path, ops: int, barrier: Any, sender: Connection) -> None:
    """A writer process: sends when it began and when it ended, or what went wrong."""
    try:
        rival.open(directory, workload.capacity(ops), workload.kind)
        workload.warm(rival, ops)
        with no_gc():
            barrier.wait(PATIENCE)
            start = perf_counter()
            workload.run(rival)
            end = perf_counter()
        rival.close()
        sender.send((start, end))
    except BaseException as error:
        barrier.abort()
        sender.send(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def measure_processes(workload: Workload, rival: Rival, directory: Path, ops: int) -> float:
    """Seconds from the first start to the last end of all writers. The clock is the system's, one for all of them."""
    store = copy.copy(rival)  # an open one cannot be pickled to a worker
    store.open(directory, workload.capacity(ops), workload.kind)
    store.close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    barrier = context.Barrier(workload.processes)
    receivers = []
    workers = []
    for number in range(workload.processes):
        mine = type(workload)(workload.scale, workload.seed, number)
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=write, args=(mine, rival, directory, ops, barrier, sender), daemon=True)
        worker.start()
        sender.close()
        receivers.append(receiver)
        workers.append(worker)
    answers: list[Any] = []
    for receiver in receivers:
        try:
            answers.append(receiver.recv() if receiver.poll(2 * PATIENCE) else TimeoutError("no answer from a writer"))
        except EOFError:
            barrier.abort()
            answers.append(RuntimeError("a writer died"))
    for worker in workers:
        worker.join(10)
        if worker.is_alive():
            worker.kill()
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors:  # the others only saw that the barrier broke
        raise next((error for error in errors if "Barrier" not in type(error).__name__), errors[0])
    store.open(directory, workload.capacity(ops), workload.kind)
    try:
        workload.verify(store, ops)
    finally:
        store.close()
    return float(max(end for _, end in answers) - min(start for start, _ in answers))


def run(workload: Workload, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
    """All contestants of a benchmark, in turn, `rounds` times; each round begins with another one."""
    rivals = workload.rivals()
    result = Result(workload.name, workload.title, [])
    for rival in rivals:
        series = Series(rival.label, workload.ops(rival.share))
        if rival.version() is None:
            series.problem = "not installed"
        elif workload.processes > 1 and not rival.processes:
            series.problem = "one process only"
        result.series.append(series)
    contest = list(zip(rivals, result.series, strict=True))
    with tempfile.TemporaryDirectory(prefix="rack-bench-", dir=base) as temporary:
        for number in range(rounds):
            turn = number % len(contest)
            for position, (rival, series) in enumerate(contest[turn:] + contest[:turn]):
                if not series.problem:
                    directory = Path(temporary) / str((position + turn) % len(contest))
                    _one(workload, rival, series, directory)
                tick()
    return result


def _one(workload: Workload, rival: Rival, series: Series, directory: Path) -> None:
    """One contestant's turn. Its failure is a line in the report and does not stop the others."""
    fill = not directory.exists()
    directory.mkdir(exist_ok=True)
    try:
        if workload.processes:
            seconds = measure_processes(workload, rival, directory, series.ops)
        else:
            seconds = measure(workload, rival, directory, series.ops, fill)
    except Exception as error:
        series.problem = "failed"
        series.error = f"{type(error).__name__}: {error}"
    else:
        series.times.append(seconds / series.ops)
        series.disk = disk_usage(directory)
    if workload.fresh:
        shutil.rmtree(directory)


def turns(workload: Workload, rounds: int) -> int:
    """How often :func:`run` will tick."""
    return rounds * len(workload.rivals())
