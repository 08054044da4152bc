"""Ranges of keys: ``--only scan``. What has no order of its keys (diskcache, sqlitedict, shelve) cannot take part."""

from __future__ import annotations

import marshal
import random
from pathlib import Path
from typing import Any

from bench.data import FULL
from bench.rival import Kind, Pairs, Rival
from bench.rivals import HandWritten, Rack, Rocks
from bench.sqlite import PUT, ByHand
from bench.workloads import Workload, check

POPULATION = 5_000_000
POPULATION_QUICK = 200_000
RANGE = 1_000
_STEP = 2_654_435_761  # has no divisor in common with the populations: its multiples visit every number once


class RackScan(Rack):
    """Rack with 16 shards, str keys."""

    def __init__(self, engine: str) -> None:
        super().__init__(16)
        self.engine = engine

    @property
    def label(self) -> str:
        return f"{self.name}, {self.engine}, 16 shards"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rack import PersistentDict

        self.d = PersistentDict(directory / "store", key_serdes="str", engine=self.engine, shards=self.shards)
        self.d.open()

    def scan(self, start: str, stop: str) -> int:
        count = 0
        for _key, _value in self.d.scan(start, stop):
            count += 1
        return count


class HandScan(HandWritten):
    """One file, one cursor; keys in UTF-8."""

    def update(self, pairs: Pairs) -> None:
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti(sorted((key.encode(), marshal.dumps(value)) for key, value in pairs))

    def scan(self, start: str, stop: str) -> int:
        end, loads = stop.encode(), marshal.loads
        count = 0
        with self.env.begin() as txn:
            cursor = txn.cursor()
            if not cursor.set_range(start.encode()):
                return 0
            for key, value in cursor:
                if key >= end:
                    break
                key.decode()
                loads(value)
                count += 1
        return count


class RocksScan(Rocks):
    """Its own iterator from a key on."""

    def scan(self, start: str, stop: str) -> int:
        count = 0
        for key, _value in self.d.items(from_key=start):  # noqa: PERF102 - the values too
            if key >= stop:
                break
            count += 1
        return count


class SqliteScan(ByHand):
    """One file, one SELECT."""

    def update(self, pairs: Pairs) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(PUT, sorted((key.encode(), marshal.dumps(value)) for key, value in pairs))
        self.connection.execute("COMMIT")

    def scan(self, start: str, stop: str) -> int:
        loads = marshal.loads
        count = 0
        for key, value in self.connection.execute(
            "SELECT key, value FROM dict WHERE key >= ? AND key < ? ORDER BY key", (start.encode(), stop.encode())
        ):
            key.decode()
            loads(value)
            count += 1
        return count


class Scan(Workload):
    """A range of many keys with their values, somewhere in a large store."""

    name = "scan"
    fresh = False
    turns = 10

    @property
    def population(self) -> int:
        return POPULATION if self.scale.ops >= FULL.ops else POPULATION_QUICK

    @property
    def title(self) -> str:
        return f"scan: a range of {RANGE:,} keys with values, in order, of {self.population:,}"

    def rivals(self) -> list[Rival]:
        return [RackScan("lmdb"), HandScan(), RocksScan(), RackScan("sqlite3"), SqliteScan()]

    def ops(self, share: float) -> int:
        return 500

    def capacity(self, ops: int) -> int:
        return self.population // 2  # what is small takes less room than is planned for an entry

    def prepare(self, rival: Rival, ops: int) -> None:
        step = 100_000
        for at in range(0, self.population, step):
            rival.update([(_key(number * _STEP % self.population), number) for number in range(at, at + step)])

    def work(self, ops: int) -> list[Any]:
        rng = random.Random(f"{self.seed}/scan")
        starts = [rng.randrange(self.population - RANGE) for _ in range(ops)]
        return [(_key(start), _key(start + RANGE)) for start in starts]

    def warm(self, rival: Rival) -> None:
        self.run(rival, self.work(50))

    def run(self, rival: Any, part: list[Any]) -> Any:
        return sum([rival.scan(start, stop) for start, stop in part])

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(sum(answers), len(work) * RANGE, "entries")


def _key(number: int) -> str:
    return f"user/{number:09d}"


SCANS: list[type[Workload]] = [Scan]
