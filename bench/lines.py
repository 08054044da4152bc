"""Lines of text that were not seen before: ``--only dedup``.

``rack dedup`` beside what a shell has for it, in the C locale, on the same files. In a locale of a language sort and
comm take about ten times as long. Each is a new process, whose start counts. awk holds all lines in memory; comm needs
what is known sorted, and to go on from there takes a merge, which is a row of its own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from bench.alone import alone
from bench.data import FULL, urls
from bench.runner import Result, Series
from bench.workloads import Apart, Workload, check

LINES = 2_000_000
LINES_QUICK = 100_000
NEW = 0.6  # of the lines
KNOWN = 20  # times as many as are new
ROUNDS = 3  # at most
RACK = f"{sys.executable} -m rack dedup --quiet store"
ENVIRONMENT = {**os.environ, "LC_ALL": "C"}


@dataclass(frozen=True)
class Way:
    """A command of the shell that writes what is new in lines.txt to new.txt; and what it needs beforehand."""

    label: str
    command: str
    prepare: str = "true"


class Dedup(Apart):
    """Some commands on a file of lines; ``known.txt`` has others, if there are any."""

    ways: ClassVar[list[Way]]

    @property
    def lines(self) -> int:
        return LINES if self.scale.ops >= FULL.ops else LINES_QUICK

    def rivals(self) -> list[Any]:
        return list(self.ways)

    def write(self, directory: Path) -> int:
        """Write the files, and return how many lines are new."""
        count = int(self.lines * NEW)
        rng = random.Random(self.seed)
        fresh = urls(count, self.seed, 1)
        lines = fresh + rng.choices(fresh, k=self.lines - count)
        rng.shuffle(lines)
        _write(directory / "lines.txt", lines)
        return count

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """Like :func:`bench.runner.run`; each in a folder of its own, and in new processes."""
        result = Result(self.name, self.title, [Series(way.label, self.lines) for way in self.ways])
        order = list(zip(self.ways, result.series, strict=True))
        with tempfile.TemporaryDirectory(prefix="rack-bench-", dir=base) as temporary:
            new, _ = alone(self.write, Path(temporary))
            for _ in range(min(rounds, ROUNDS)):
                for way, series in order:
                    try:
                        series.rounds.append([_time(way, Path(temporary), new) / self.lines])
                    except Exception as error:
                        series.fail(error)
                    tick()
                order.reverse()
        return result


class DedupNew(Dedup):
    """A new store, one worker."""

    name = "dedup-new"
    ways: ClassVar[list[Way]] = [
        Way("Rack", f"{RACK} ../lines.txt > new.txt"),
        Way("awk", "awk '!seen[$0]++' ../lines.txt > new.txt"),
    ]

    @property
    def title(self) -> str:
        awk = os.path.basename(os.path.realpath("/usr/bin/awk"))
        return f"{self.name}: {self.lines:,} lines, {NEW:.0%} of them new, into a new store (awk is {awk})"


class DedupWorkers(Dedup):
    """A new store, two workers; the order is not that of the input for any of them."""

    name = "dedup-workers"
    ways: ClassVar[list[Way]] = [
        Way("Rack, 2 workers", f"{RACK} --workers 2 ../lines.txt > new.txt"),
        Way("sort -u", "sort --parallel=2 -T . -u ../lines.txt > new.txt"),
    ]

    @property
    def title(self) -> str:
        return f"{self.name}: {self.lines:,} lines, {NEW:.0%} of them new, two at a time"


class DedupKnown(Dedup):
    """Work that goes on: there are many times as many lines already."""

    name = "dedup-known"
    ways: ClassVar[list[Way]] = [
        Way("Rack", f"{RACK} ../lines.txt > new.txt", f"{RACK} ../known.txt > new.txt"),
        Way(
            "sort and comm",
            "sort -T . -u ../lines.txt | comm -13 known.txt - > new.txt",
            "sort -T . -u ../known.txt -o known.txt",
        ),
        Way(
            "sort, comm and merge",
            "sort -T . -u ../lines.txt | comm -13 known.txt - > new.txt && sort -m known.txt new.txt -o all.txt",
            "sort -T . -u ../known.txt -o known.txt",
        ),
    ]

    @property
    def lines(self) -> int:
        return super().lines // 10

    @property
    def title(self) -> str:
        return f"{self.name}: {self.lines:,} new lines, into a store of {KNOWN * self.lines:,}"

    def write(self, directory: Path) -> int:
        _write(directory / "lines.txt", urls(self.lines, self.seed, 1))
        _write(directory / "known.txt", urls(KNOWN * self.lines, self.seed, 2))
        return self.lines


DEDUP: list[type[Workload]] = [DedupNew, DedupWorkers, DedupKnown]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([*lines, ""]))


def _time(way: Way, directory: Path, expected: int) -> float:
    """Seconds that a command takes; it has to find ``expected`` new lines."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        _shell(way.prepare, folder)
        start = perf_counter()
        _shell(way.command, folder)
        seconds = perf_counter() - start
        with open(Path(folder, "new.txt"), "rb") as file:
            found = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    check(found, expected, "new lines")
    return seconds


def _shell(command: str, directory: str) -> None:
    subprocess.run(command, shell=True, check=True, cwd=directory, env=ENVIRONMENT)
