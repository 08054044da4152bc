"""Rounds: the contestants take turns, timed with the garbage collector off, on stores that are removed afterwards."""

from __future__ import annotations

import copy
import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench.processes import measure
from bench.rival import Rival
from bench.workloads import Workload


@dataclass
class Series:
    """What one contestant did in one benchmark: seconds an operation, for each turn of each round."""

    label: str
    ops: int
    rounds: list[list[float]] = field(default_factory=list)
    disk: int = 0  # bytes on disk after close, in the last round
    problem: str = ""  # why there are no times
    error: str = ""

    @property
    def times(self) -> list[float]:
        """Seconds an operation in each round: the median of its turns, which one disturbed turn does not move."""
        return [median(turns) for turns in self.rounds]

    @property
    def time(self) -> float:
        """Median seconds an operation."""
        return median(self.times)

    def fail(self, error: Exception) -> None:
        """Take this contestant out; the others go on."""
        if not self.problem:
            self.problem = "failed"
            self.error = f"{type(error).__name__}: {error}"


@dataclass
class Result:
    """One benchmark: the first series is what the others are compared with."""

    name: str
    title: str
    series: list[Series]

    def ratios(self, label: str) -> list[float]:
        """How many times faster the first one was in each round; empty if either has no times.

        A turn is compared with the turn beside it in time, and the median of those ratios is the round's.
        """
        first = self.series[0]
        for other in self.series:
            if other.label == label and not other.problem and not first.problem:
                return [_ratio(ours, theirs) for ours, theirs in zip(first.rounds, other.rounds, strict=True)]
        return []

    def ratio(self, label: str) -> float | None:
        """Median of the ratios."""
        ratios = self.ratios(label)
        return median(ratios) if ratios else None


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return median(other / mine for mine, other in zip(ours, theirs, strict=True))


class Contest:
    """A benchmark under way."""

    def __init__(self, workload: Workload, directory: Path, tick: Callable[[], None]) -> None:
        self.workload = workload
        self.directory = directory
        self.tick = tick
        self.result = Result(workload.name, workload.title, [])
        self.contestants: list[tuple[Rival, Series]] = []
        for rival in workload.rivals():
            series = Series(rival.label, workload.ops(rival.share))
            if rival.version() is None:
                series.problem = "not installed"
            elif workload.processes > 1 and not rival.processes:
                series.problem = "one process only"
            self.result.series.append(series)
            self.contestants.append((rival, series))

    def round(self, number: int) -> None:
        """Time all contestants once; each round begins with another one."""
        turn = number % len(self.contestants)
        order = self.contestants[turn:] + self.contestants[:turn]
        if self.workload.processes:
            for rival, series in order:
                if not series.problem:
                    self._time_processes(rival, series)
                self.tick()
        else:
            self._time_turns([(copy.copy(rival), series) for rival, series in order])

    def _time_processes(self, rival: Rival, series: Series) -> None:
        directory = self._directory(series)
        directory.mkdir()
        try:
            series.rounds.append([measure(self.workload, rival, directory, series.ops) / series.ops])
            series.disk = disk_usage(directory)
        except Exception as error:
            series.fail(error)
        shutil.rmtree(directory)

    def _time_turns(self, order: list[tuple[Rival, Series]]) -> None:
        """All stores are open at once, and the contestants do a part of their work each in turn."""
        workload = self.workload
        work: dict[str, list[Any]] = {}
        for rival, series in order:
            if not series.problem:
                work[series.label] = workload.work(series.ops)
                with _failing(series):
                    self._open(rival, series)
        times: dict[str, list[float]] = {label: [] for label in work}
        answers: dict[str, list[Any]] = {label: [] for label in work}
        with no_gc():
            parts = {label: workload.parts(whole) for label, whole in work.items()}
            for turn in range(workload.turns):
                for rival, series in order:
                    if not series.problem:
                        label = series.label
                        part = parts[label][turn]
                        with _failing(series):
                            start = perf_counter()
                            answer = workload.run(rival, part)
                            times[label].append((perf_counter() - start) / len(part))
                            answers[label].append(answer)
        for rival, series in order:
            label = series.label
            if not series.problem:
                with _failing(series):
                    workload.verify(rival, work[label], answers[label])
                    series.rounds.append(times[label])
            if label in work:
                with _failing(series):
                    rival.close()
                series.disk = disk_usage(self._directory(series))
            if workload.fresh:
                shutil.rmtree(self._directory(series), ignore_errors=True)
            self.tick()

    def _open(self, rival: Rival, series: Series) -> None:
        directory = self._directory(series)
        fill = not directory.exists()
        directory.mkdir(exist_ok=True)
        rival.open(directory, self.workload.capacity(series.ops), self.workload.kind)
        if fill:
            self.workload.prepare(rival, series.ops)
        self.workload.warm(rival)

    def _directory(self, series: Series) -> Path:
        return self.directory / str(self.result.series.index(series))


def run(workload: Workload, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
    """Run a benchmark `rounds` times; stores are below `base`, or where temporary files go."""
    with tempfile.TemporaryDirectory(prefix="rack-bench-", dir=base) as temporary:
        contest = Contest(workload, Path(temporary), tick)
        for number in range(rounds):
            contest.round(number)
    return contest.result


def ticks(workload: Workload, rounds: int) -> int:
    """How often :func:`run` will tick."""
    return rounds * len(workload.rivals())


@contextmanager
def no_gc() -> Iterator[None]:
    """Collect garbage now, and not again inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _failing(series: Series) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        series.fail(error)


def disk_usage(directory: Path) -> int:
    """Bytes allocated to the files below `directory`."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # a library's background thread may still tidy up
            if path.is_file():
                total += path.stat().st_blocks * 512
    return total
