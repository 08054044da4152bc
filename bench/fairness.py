"""How long a write waits when many processes write one shard: Rack's queue, and SQLite's busy handler without one."""

from __future__ import annotations

import copy
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

from rich.table import Table

from bench import report
from bench.data import FULL
from bench.processes import PATIENCE, PRELOAD
from bench.rival import Rival
from bench.runner import Result, Series
from bench.workloads import Workload, WrongAnswer, check

WRITERS = 8
SECONDS = 5.0
SECONDS_QUICK = 1.0


class Fairness(Workload):
    """Processes set keys of their own in one file for some seconds; what counts is the longest that one set took.

    In the results this is the time of an operation, so that the ratio is how many times longer the other's was.
    """

    name = "sqlite-fairness"
    ways: ClassVar[list[Rival]] = []  # Rack first

    @property
    def seconds(self) -> float:
        """How long each contestant writes."""
        return SECONDS if self.scale.ops >= FULL.ops else SECONDS_QUICK

    @property
    def title(self) -> str:
        return (
            f"{self.name}: {WRITERS} processes set on one shard for {self.seconds:g} s; the longest that one set took"
        )

    def rivals(self) -> list[Rival]:
        return self.ways

    def work(self, ops: int) -> list[Any]:
        return []

    def warm(self, rival: Rival) -> None:
        rival.set([("warm", 1)])

    def run(self, rival: Rival, part: list[Any]) -> Any:
        """The sets of this writer: how many, the longest one's seconds, and how long all took."""
        end = start = perf_counter()
        worst, count = 0.0, 0
        last = start + self.seconds
        while end < last:
            before = end
            rival.set([(f"https://www.example/{self.worker}/{count}", count)])
            end = perf_counter()
            worst = max(worst, end - before)
            count += 1
        return count, worst, end - start

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(rival.count(), 1 + sum(count for count, _, _ in answers), "entries")

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """Like :func:`bench.runner.run`."""
        result = Result(self.name, self.title, [Series(rival.label, 0) for rival in self.rivals()])
        order = list(zip(self.rivals(), result.series, strict=True))
        for _ in range(rounds):
            for rival, series in order:
                directory = Path(tempfile.mkdtemp(prefix="rack-bench-", dir=base))
                try:
                    if not series.problem:
                        answers = self._answers(rival, directory)
                        series.rounds.append([max(worst for _, worst, _ in answers)])
                        series.ops += sum(count for count, _, _ in answers)
                except Exception as error:
                    series.fail(error)
                finally:
                    shutil.rmtree(directory)
                tick()
            order.reverse()
        return result

    def _answers(self, rival: Rival, directory: Path) -> list[tuple[int, float, float]]:
        store = copy.copy(rival)  # an open one cannot be pickled to a worker
        store.open(directory, 0)
        store.close()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        barrier = context.Barrier(WRITERS)
        receivers, workers = [], []
        for number in range(WRITERS):
            mine = type(self)(self.scale, self.seed, number)
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_write, args=(mine, rival, directory, barrier, sender), daemon=True)
            worker.start()
            sender.close()
            receivers.append(receiver)
            workers.append(worker)
        answers = [receiver.recv() if receiver.poll(2 * PATIENCE) else "no answer" for receiver in receivers]
        for worker in workers:
            worker.join(10)
            if worker.is_alive():
                worker.kill()
        for answer in answers:
            if isinstance(answer, str):
                raise WrongAnswer(answer)
        store.open(directory, 0)
        try:
            self.verify(store, [], answers)
        finally:
            store.close()
        return answers

    def table(self, result: Result) -> Table:
        """Milliseconds."""
        table = report.plain_table(result.title)
        table.add_column("", no_wrap=True)
        for column in ("longest, ms", "min..max", "sets per second", "Rack's is a"):
            table.add_column(column, justify="right", no_wrap=True)
        table.caption = "\n".join(f"{series.label}: {series.error}" for series in result.series if series.error) or None
        for series in result.series:
            if series.problem:
                table.add_row(series.label, series.problem, style="dim")
                continue
            times = [1000 * seconds for seconds in series.times]
            ratio = result.ratio(series.label) if series is not result.series[0] else None
            rate = series.ops / (self.seconds * len(times))
            spread = report.spread(times, lambda value: f"{value:,.0f}")
            part = f"{report.times(ratio)}th part" if ratio else ""
            table.add_row(series.label, f"{median(times):,.0f}", spread, f"{rate:,.0f}", part)
        return table


def _write(workload: Fairness, rival: Rival, directory: Path, barrier: Any, sender: Connection) -> None:
    """A writer process."""
    try:
        rival.open(directory, 0)
        workload.warm(rival)
        barrier.wait(PATIENCE)
        answer: Any = workload.run(rival, [])
        rival.close()
    except BaseException as error:
        barrier.abort()
        answer = repr(error)
    sender.send(answer)
