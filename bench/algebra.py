"""Union, intersection and difference of two sets on disk: ``--only algebra``.

Rack's merge joins beside: the same by lookup in other libraries (smaller sets, which flatters them), SQLite's own
operators over two attached tables, and sort and comm on text files in the C locale. The text files are as they come,
not sorted; a row of its own shows comm on files that were sorted beforehand, which is not the same work. So does one
with ORDER BY, with which SQLite merges. Each makes its result on the disk, without an fsync.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sqlite3
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from rich.table import Table

from bench import report
from bench.alone import alone
from bench.data import FULL, urls
from bench.runner import Result, Series
from bench.workloads import Apart, Workload, check

ELEMENTS = 2_000_000
ELEMENTS_QUICK = 100_000
ROUNDS = 3  # at most
ENVIRONMENT = {**os.environ, "LC_ALL": "C"}


class Way(ABC):
    """A way to keep two sets and to make a third of them. It can be pickled."""

    label: ClassVar[str]
    share: ClassVar[float] = 1.0  # of the elements that Rack's sets have

    def version(self) -> str | None:
        return "there"

    @abstractmethod
    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        """Make the set `name`."""

    @abstractmethod
    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        """Make the set `c` of `a` and `b`; the seconds that took, and the number of its elements."""


class Rack(Way):
    """As it comes: the result is anonymous."""

    label = "Rack"
    workers: ClassVar[int] = 1

    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        from rack import PersistentSet

        with PersistentSet[str](directory / name, serdes="str") as store:
            store.update(elements)

    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        from rack import PersistentSet

        with PersistentSet[str](directory / "a") as a, PersistentSet[str](directory / "b") as b:
            start = perf_counter()
            made = getattr(a, operation)(b, workers=self.workers)
            seconds = perf_counter() - start
            with made:
                return seconds, len(made)


class RackWorkers(Rack):
    """With two processes."""

    label = "Rack, workers=2"
    workers = 2


class Sqlite(Way):
    """One table a file, attached, and the operator as it is written."""

    label = "SQLite's operators"
    order: ClassVar[str] = ""
    _words: ClassVar[dict[str, str]] = {"union": "UNION", "intersection": "INTERSECT", "difference": "EXCEPT"}
    _table: ClassVar[str] = "(key TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID"

    def _connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -65536")
        return connection

    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        connection = self._connect(directory / f"{name}.sqlite")
        connection.execute(f"CREATE TABLE s {self._table}")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO s VALUES (?)", sorted((element,) for element in elements))
        connection.execute("COMMIT")
        connection.close()

    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        connection = self._connect(directory / "c.sqlite")
        for name in "ab":
            connection.execute(f"ATTACH ? AS {name}", (str(directory / f"{name}.sqlite"),))
        start = perf_counter()
        connection.execute(f"CREATE TABLE main.s {self._table}")
        connection.execute(
            f"INSERT INTO main.s SELECT key FROM a.s {self._words[operation]} SELECT key FROM b.s {self.order}"
        )
        seconds = perf_counter() - start
        count = connection.execute("SELECT count(*) FROM main.s").fetchone()[0]
        connection.close()
        return seconds, int(count)


class SqliteOrdered(Sqlite):
    """With ORDER BY on the key, which makes SQLite merge the two indexes instead of filling a temporary one."""

    label = "SQLite, with ORDER BY"
    order = "ORDER BY key"


class Sort(Way):
    """Text files as they come: `sort -u` of both, or `comm` of what `sort` makes of each."""

    label = "sort and comm"

    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        with open(directory / f"{name}.txt", "w") as file:
            file.writelines(f"{element}\n" for element in elements)

    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        start = perf_counter()
        if operation == "union":
            _shell("sort -u -T . a.txt b.txt -o c.txt", directory)
        else:
            option = "-12" if operation == "intersection" else "-23"
            _shell(
                f"sort -T . a.txt -o as.txt && sort -T . b.txt -o bs.txt && comm {option} as.txt bs.txt > c.txt",
                directory,
            )
        return perf_counter() - start, _lines(directory / "c.txt")


class Comm(Sort):
    """The files were sorted beforehand."""

    label = "comm, sorted files"

    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        super().fill(directory, name, elements)
        _shell(f"sort -T . {name}.txt -o {name}s.txt", directory)

    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        command = {
            "union": "sort -m -u as.txt bs.txt -o c.txt",
            "intersection": "comm -12 as.txt bs.txt > c.txt",
            "difference": "comm -23 as.txt bs.txt > c.txt",
        }[operation]
        start = perf_counter()
        _shell(command, directory)
        return perf_counter() - start, _lines(directory / "c.txt")


class ByLookup(Way):
    """A library's dicts used as sets: each element of one is looked up in the other, the result put many at once."""

    share = 0.02
    module: ClassVar[str]

    def version(self) -> str | None:
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return None

    @abstractmethod
    def _open(self, path: Path) -> Any: ...

    @abstractmethod
    def _put(self, d: Any, elements: Iterable[str]) -> None: ...

    @abstractmethod
    def _close(self, d: Any) -> None: ...

    def fill(self, directory: Path, name: str, elements: list[str]) -> None:
        d = self._open(directory / name)
        self._put(d, elements)
        self._close(d)

    def make(self, directory: Path, operation: str) -> tuple[float, int]:
        a, b, c = (self._open(directory / name) for name in "abc")
        start = perf_counter()
        if operation == "union":
            self._put(c, a)
            self._put(c, (element for element in b if element not in a))
        elif operation == "intersection":
            self._put(c, (element for element in a if element in b))
        else:
            self._put(c, (element for element in a if element not in b))
        seconds = perf_counter() - start
        count = len(c)
        for d in (a, b, c):
            self._close(d)
        return seconds, count


class Diskcache(ByLookup):
    """diskcache.Index; the result in one transaction."""

    label = "diskcache.Index"
    module = "diskcache"

    def _open(self, path: Path) -> Any:
        diskcache: Any = importlib.import_module("diskcache")
        return diskcache.Index(str(path))

    def _put(self, d: Any, elements: Iterable[str]) -> None:
        with d.transact():
            for element in elements:
                d[element] = None

    def _close(self, d: Any) -> None:
        d.cache.close()


class Sqlitedict(ByLookup):
    """sqlitedict; the result in one commit."""

    label = "sqlitedict"
    module = "sqlitedict"

    def _open(self, path: Path) -> Any:
        sqlitedict: Any = importlib.import_module("sqlitedict")
        return sqlitedict.SqliteDict(f"{path}.sqlite", autocommit=False, journal_mode="WAL", outer_stack=False)

    def _put(self, d: Any, elements: Iterable[str]) -> None:
        d.update((element, None) for element in elements)
        d.commit()

    def _close(self, d: Any) -> None:
        d.close()


WAYS: list[type[Way]] = [Rack, RackWorkers, Sqlite, SqliteOrdered, Sort, Comm, Diskcache, Sqlitedict]


class Algebra(Apart):
    """One operation on two sets, half of each shared."""

    operation: ClassVar[str]

    @property
    def title(self) -> str:
        return (
            f"{self.name}: {self.operation} of two sets of {self.elements:,} URLs, half shared; time for an element of"
            f" both (C locale; SQLite {sqlite3.sqlite_version})"
        )

    @property
    def elements(self) -> int:
        return ELEMENTS if self.scale.ops >= FULL.ops else ELEMENTS_QUICK

    def rivals(self) -> list[Any]:
        return [way() for way in WAYS]

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """Like :func:`bench.runner.run`; each in a process of its own, on sets that are made once."""
        self._peaks: dict[str, int] = {}
        result = Result(self.name, self.title, [])
        with tempfile.TemporaryDirectory(prefix="rack-bench-", dir=base) as temporary:
            order: list[tuple[Way, Series, Path]] = []
            for way in self.rivals():
                count = max(int(self.elements * way.share), 1000) // 2 * 2
                series = Series(way.label, 2 * count)
                result.series.append(series)
                if way.version() is None:
                    series.problem = "not installed"
                    continue
                directory = Path(temporary, str(len(order)))
                directory.mkdir()
                order.append((way, series, directory))
                try:
                    alone(_fill, way, directory, count, self.seed)
                except Exception as error:
                    series.fail(error)
            for _ in range(min(rounds, ROUNDS)):
                for way, series, directory in order:
                    if not series.problem:
                        try:
                            self._time(way, series, directory)
                        except Exception as error:
                            series.fail(error)
                    tick()
                order.reverse()
        return result

    def _time(self, way: Way, series: Series, directory: Path) -> None:
        expected = series.ops // 2 * 3 // 2 if self.operation == "union" else series.ops // 4
        (seconds, count), peak = alone(way.make, directory, self.operation)
        check(count, expected, "elements")
        series.rounds.append([seconds / series.ops])
        self._peaks[way.label] = max(self._peaks.get(way.label, 0), peak)
        for path in directory.glob("c*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def table(self, result: Result) -> Table:
        table = report.result_table(result)
        memory = ", ".join(f"{label} {peak / 1e6:.0f} MB" for label, peak in self._peaks.items() if "Rack" in label)
        table.caption = f"Private memory: {memory}. " + str(table.caption or "")
        return table


class Union(Algebra):
    """What is in any of the two."""

    name = "algebra-union"
    operation = "union"


class Intersection(Algebra):
    """What is in both."""

    name = "algebra-intersection"
    operation = "intersection"


class Difference(Algebra):
    """What is in the first one only."""

    name = "algebra-difference"
    operation = "difference"


ALGEBRA: list[type[Workload]] = [Union, Intersection, Difference]


def _fill(way: Way, directory: Path, count: int, seed: int) -> None:
    """Two sets of `count`, in an order that is nobody's."""
    ours, more = urls(count, seed, 1), urls(count // 2, seed, 2)
    way.fill(directory, "a", ours)
    way.fill(directory, "b", ours[count // 2 :] + more)


def _shell(command: str, directory: Path) -> None:
    subprocess.run(command, shell=True, check=True, cwd=directory, env=ENVIRONMENT)


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
