"""Rack's SQLite engine beside other stores on SQLite, and the disk space of all: ``--only sqlite``, ``--only space``.

The promise is the same for all but sqlitedict: a finished write survives the death of the process, and the log is
synced when it is moved into the database (synchronous=NORMAL; sqlitedict: OFF).
"""

from __future__ import annotations

import importlib
import marshal
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import report, runner
from bench.data import FULL, urls
from bench.fairness import Fairness
from bench.rival import DictRival, Kind, Pairs, Rival
from bench.rivals import Fanout, FanoutKeeping, Lmdbm, Rack, Rocks, SqliteDict
from bench.runner import Result
from bench.workloads import Get, Set, Update, Workload, Writers8, check

TABLE = "CREATE TABLE IF NOT EXISTS dict (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID"
PUT = "INSERT INTO dict VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
ADD = "INSERT OR IGNORE INTO dict VALUES (?, ?)"
SELECT = "SELECT value FROM dict WHERE key = ?"
SPACE = 1_000_000
SPACE_QUICK = 100_000


class RackSqlite(Rack):
    """Rack with the SQLite engine and 8 shards."""

    name = "Rack, sqlite3"

    def __init__(self, shards: int = 8) -> None:
        self.shards: int = shards

    @property
    def label(self) -> str:
        return f"{self.name}, {self.shards} shard{'s' * (self.shards > 1)}"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rack import PersistentDict, PersistentSet

        container: Any = PersistentSet if kind == "set" else PersistentDict
        self.d = container(directory / "store", engine="sqlite3", shards=self.shards)
        self.d.open()


class RackLmdb(Rack):
    """The other engine as it comes, named: for the table of space."""

    name = "Rack, lmdb"

    @property
    def label(self) -> str:
        return self.name


class Index(DictRival):
    """diskcache.Index: one file, nothing is ever evicted. Many at once: inside `transact()`, one transaction."""

    name = "diskcache.Index"
    module = "diskcache"
    share = 0.4

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self.d = diskcache.Index(str(directory / "index"))

    def close(self) -> None:
        self.d.cache.close()

    def update(self, pairs: Pairs) -> None:
        with self.d.transact():
            self.set(pairs)


class ByHand(Rival):
    """What a user of sqlite3 writes by hand, with marshal as Rack has it: one file, one statement an operation.

    No count is kept (`len` counts all rows), and writers wait for each other in SQLite's busy handler.
    """

    name = "sqlite3 by hand"
    module = "sqlite3"

    def version(self) -> str:
        return sqlite3.sqlite_version

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        self.connection = sqlite3.connect(directory / "data.sqlite", timeout=60, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute(TABLE)

    def close(self) -> None:
        self.connection.close()

    def count(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM dict").fetchone()[0])

    def set(self, pairs: Pairs) -> None:
        execute, dumps = self.connection.execute, marshal.dumps
        for key, value in pairs:
            execute(PUT, (dumps(key), dumps(value)))

    def get(self, keys: list[str]) -> Any:
        execute, dumps, loads = self.connection.execute, marshal.dumps, marshal.loads
        value = None
        for key in keys:
            value = loads(execute(SELECT, (dumps(key),)).fetchone()[0])
        return value

    def contains(self, keys: list[str]) -> int:
        execute, dumps = self.connection.execute, marshal.dumps
        found = 0
        for key in keys:
            if execute(SELECT, (dumps(key),)).fetchone() is not None:
                found += 1
        return found

    def add(self, keys: list[str]) -> int:
        execute, dumps = self.connection.execute, marshal.dumps
        return sum(execute(ADD, (dumps(key), b"")).rowcount for key in keys)

    def update(self, pairs: Pairs) -> None:
        """Sorted, which is faster; one executemany in one transaction."""
        dumps = marshal.dumps
        rows = sorted((dumps(key), dumps(value)) for key, value in pairs)
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(PUT, rows)
        self.connection.execute("COMMIT")

    def iterate(self, values: bool) -> int:
        loads = marshal.loads
        count = 0
        for row in self.connection.execute(f"SELECT {'key, value' if values else 'key'} FROM dict ORDER BY key"):
            for cell in row:
                loads(cell)
            count += 1
        return count


def sqlite_rivals() -> list[Rival]:
    """All on SQLite, Rack first."""
    return [RackSqlite(), ByHand(), Index(), Fanout(), FanoutKeeping(), SqliteDict()]


class SqliteSet(Set):
    """`d[key] = value` of new keys."""

    name = "sqlite-set"

    @property
    def title(self) -> str:
        return f"sqlite-{super().title}; SQLite {sqlite3.sqlite_version}"

    def rivals(self) -> list[Rival]:
        return sqlite_rivals()


class SqliteGet(Get):
    """`d[key]` of keys that are there."""

    name = "sqlite-get"

    @property
    def title(self) -> str:
        return f"sqlite-{super().title}"

    def rivals(self) -> list[Rival]:
        return sqlite_rivals()


class SqliteUpdate(Update):
    """Many at once into a new store."""

    name = "sqlite-update"

    @property
    def title(self) -> str:
        return f"sqlite-{super().title}; by hand: executemany in one transaction"

    def rivals(self) -> list[Rival]:
        return sqlite_rivals()


class SqliteWriters8(Writers8):
    """Eight writers on eight shards. All do the same number, so that the stores grow alike."""

    name = "sqlite-writers-8"

    def ops(self, share: float) -> int:
        return super().ops(0.4)

    def rivals(self) -> list[Rival]:
        return [RackSqlite(), ByHand(), Fanout(), FanoutKeeping()]


class SqliteFairness(Fairness):
    """Eight writers on one file: with Rack's queue before it, and without."""

    def rivals(self) -> list[Rival]:
        return [RackSqlite(1), ByHand()]


class Space(Workload):
    """Disk space of an entry: URLs with values of 8 bytes."""

    name = "space"

    @property
    def title(self) -> str:
        return f"space: {self.ops(1):,} URLs with 8-byte values, put as many at once, then closed"

    def rivals(self) -> list[Rival]:
        return [RackSqlite(), RackLmdb(), Index(), Fanout(), SqliteDict(), Lmdbm(), Rocks(), ByHand()]

    def ops(self, share: float) -> int:
        return SPACE if self.scale.ops >= FULL.ops else SPACE_QUICK

    def work(self, ops: int) -> list[Any]:
        rng = random.Random(f"{self.seed}/space")
        return [(url, rng.randbytes(8)) for url in urls(ops, self.seed, 1)]

    def warm(self, rival: Rival) -> None:
        rival.count()

    def run(self, rival: Rival, part: list[Any]) -> Any:
        rival.update(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(rival.count(), len(work), "entries")

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """One round, since space does not vary; without the times, which are not the point."""
        result = runner.run(self, 1, base, tick)
        for series in result.series:
            series.rounds.clear()
        return result

    def table(self, result: Result) -> Table:
        """Bytes, not times."""
        table = report.plain_table(result.title)
        table.add_column("", no_wrap=True)
        for column in ("entries", "bytes each", "Rack's as a multiple"):
            table.add_column(column, justify="right", no_wrap=True)
        table.caption = "\n".join(f"{series.label}: {series.error}" for series in result.series if series.error) or None
        ours = result.series[0].disk
        for series in result.series:
            if series.problem:
                table.add_row(series.label, series.problem, style="dim")
            else:
                cells = (series.label, f"{series.ops:,}", f"{series.disk / series.ops:,.1f}")
                table.add_row(*cells, report.times(ours / series.disk))
        return table


SQLITE: list[type[Workload]] = [SqliteSet, SqliteGet, SqliteUpdate, SqliteWriters8, SqliteFairness, Space]
