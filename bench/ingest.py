"""Ingest of more than the memory holds: ``--only ingest``.

Random keys into a set, in a process whose memory, page cache included, a cgroup limits. Where none can be made (it
takes Linux, and root) there is no limit, which the title says, and the figures mean little.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from rich.table import Table

from bench import report
from bench.alone import alone, can_limit
from bench.data import FULL
from bench.rivals import Rocks
from bench.runner import Result, Series, disk_usage
from bench.workloads import Apart, check

KEYS, MEMORY = 8_000_000, 256 << 20
KEYS_QUICK, MEMORY_QUICK = 1_000_000, 128 << 20
KEY_BYTES = 52
WINDOWS = 16  # in which the rate is looked at
ROUNDS = 3  # at most


class Ingester(ABC):
    """A store that takes in keys. It can be pickled."""

    label: ClassVar[str]

    def version(self) -> str | None:
        return "there"

    @abstractmethod
    def take(self, directory: Path, keys: Iterator[bytes]) -> None:
        """Store all keys, and close the store."""

    @abstractmethod
    def count(self, directory: Path) -> int:
        """The number of keys in the store."""


class RackIngester(Ingester):
    """`update`, as it comes."""

    label = "Rack"

    def take(self, directory: Path, keys: Iterator[bytes]) -> None:
        from rack import PersistentSet

        with PersistentSet[bytes](directory / "store", serdes="bytes") as store:
            store.update(keys)

    def count(self, directory: Path) -> int:
        from rack import PersistentSet

        with PersistentSet[bytes](directory / "store") as store:
            return len(store)


class RocksIngester(Ingester):
    """rocksdict in raw mode, batches of 1,000; larger ones were not faster."""

    label = "rocksdict"

    def version(self) -> str | None:
        return Rocks().version()

    def take(self, directory: Path, keys: Iterator[bytes]) -> None:
        from rocksdict import Options, Rdict, WriteBatch

        db = Rdict(str(directory / "store"), options=Options(raw_mode=True))
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.put(key, b"")
            if batch.len() >= 1000:
                db.write(batch)
                batch = WriteBatch(raw_mode=True)
        db.write(batch)
        db.close()

    def count(self, directory: Path) -> int:
        from rocksdict import Options, Rdict

        db = Rdict(str(directory / "store"), options=Options(raw_mode=True))
        count = sum(1 for _ in db.keys())  # noqa: SIM118
        db.close()
        return count


class Ingest(Apart):
    """Keys in random order."""

    name = "ingest"

    @property
    def keys(self) -> int:
        return KEYS if self.scale.ops >= FULL.ops else KEYS_QUICK

    @property
    def limit(self) -> int | None:
        if not can_limit():
            return None
        return MEMORY if self.keys == KEYS else MEMORY_QUICK

    @property
    def title(self) -> str:
        limit = self.limit
        memory = f"{limit >> 20} MiB of memory" if limit else "NO limit of memory: no cgroup can be made here"
        return f"ingest: {self.keys:,} random keys of {KEY_BYTES} bytes, {memory}"

    def rivals(self) -> list[Any]:
        return [RackIngester(), RocksIngester()]

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """Like :func:`bench.runner.run`; each in a process of its own."""
        result = Result(self.name, self.title, [Series(rival.label, self.keys) for rival in self.rivals()])
        order = list(zip(self.rivals(), result.series, strict=True))
        self._lowest: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(min(rounds, ROUNDS)):
            for rival, series in order:
                if rival.version() is None:
                    series.problem = "not installed"
                if not series.problem:
                    directory = Path(tempfile.mkdtemp(prefix="rack-bench-", dir=base))
                    try:
                        seconds, _ = alone(_ingest, rival, directory, self.keys, self.seed, limit=self.limit)
                        check(alone(rival.count, directory)[0], self.keys, "keys")
                        series.rounds.append([sum(seconds) / self.keys])
                        series.disk = disk_usage(directory)
                        *windows, rest = seconds
                        first = windows[0]
                        lowest = first / max(windows), first / windows[-1], first / max(*windows, windows[-1] + rest)
                        self._lowest.setdefault(rival.label, []).append(lowest)
                    except Exception as error:
                        series.fail(error)
                    finally:
                        shutil.rmtree(directory, ignore_errors=True)
                tick()
            order.reverse()
        return result

    def table(self, result: Result) -> Table:
        table = report.result_table(result)
        lines = []
        for series in result.series:
            if series.label in self._lowest:
                lowest, last, whole = map(min, zip(*self._lowest[series.label], strict=True))
                lines.append(
                    f"{series.label}: {series.disk / 1e6:,.0f} MB on disk; the lowest of {WINDOWS} rates is"
                    f" {lowest:.2f} of the first, the last one {last:.2f}, {whole:.2f} with what is left to do then"
                )
        table.caption = "\n".join([*lines, str(table.caption or "")])
        return table


def _ingest(ingester: Ingester, directory: Path, count: int, seed: int) -> list[float]:
    """Seconds that each window took, and what was left to do behind the last key, until the store was closed."""
    marks = [perf_counter()]

    def keys() -> Iterator[bytes]:
        random_bytes = random.Random(seed).randbytes
        for _ in range(WINDOWS):
            for _ in range(count // WINDOWS):
                yield random_bytes(KEY_BYTES)
            marks.append(perf_counter())

    ingester.take(directory, keys())
    marks.append(perf_counter())
    return [end - start for start, end in pairwise(marks)]
