"""What Rack promises to reach, as medians of ratios within rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from bench.runner import Result


@dataclass(frozen=True)
class Target:
    """Rack's speed in a benchmark as a multiple of a contestant's."""

    benchmark: str
    rival: str
    least: float

    def reached(self, results: Mapping[str, Result]) -> float | None:
        """The multiple that was reached, or None if it was not measured."""
        result = results.get(self.benchmark)
        return result.ratio(self.rival) if result else None


@dataclass(frozen=True)
class Limit:
    """How long an operation of Rack may take, in seconds."""

    benchmark: str
    most: float
    beyond: str | None = None  # more than this contestant's

    def reached(self, results: Mapping[str, Result]) -> float | None:
        """The seconds that it took, or None if it was not measured."""
        if self.benchmark not in results:
            return None
        first, *others = results[self.benchmark].series
        if self.beyond is None:
            return first.time if first.rounds else None
        (other,) = (series for series in others if series.label == self.beyond)
        if not (first.rounds and other.rounds):
            return None
        return median(mine - theirs for mine, theirs in zip(first.times, other.times, strict=True))


HAND = "py-lmdb by hand"
SHARDED = "py-lmdb by hand, sharded"
FANOUT = "FanoutCache(8)"
KEEPING = "FanoutCache(8), no eviction"

TARGETS: list[Target | Limit] = [
    Target("set", FANOUT, 25),
    Target("set", KEEPING, 25),
    Target("set", "rocksdict", 1.2),
    Target("set", HAND, 0.65),
    Target("get", FANOUT, 6),
    Target("get", KEEPING, 6),
    Target("get", "rocksdict", 0.9),
    Target("get", HAND, 0.65),
    Target("update", SHARDED, 0.9),
    Target("items", SHARDED, 1 / 1.5),  # at most one and a half times the time
    Target("keys", HAND, 1 / 3),
    Target("writers-4", FANOUT, 25),
    Target("writers-4", KEEPING, 25),
    Target("sqlite-set", FANOUT, 2.2),
    Target("sqlite-set", "diskcache.Index", 1.5),
    Target("sqlite-get", "diskcache.Index", 2),
    Target("sqlite-update", "sqlite3 by hand", 0.5),
    Target("sqlite-writers-8", FANOUT, 3.5),
    Limit("scan", 0.002),
    Target("sqlite-fairness", "sqlite3 by hand", 5),  # the longest that a set took
    *(
        Target(f"algebra-{operation}", rival, least)
        for operation in ("union", "intersection", "difference")
        for rival, least in (
            ("diskcache.Index", 20),
            ("sqlitedict", 20),
            ("SQLite's operators", 1),
            ("sort and comm", 0.7),
        )
    ),
    Target("dedup-new", "awk", 1.1),
    Target("dedup-workers", "sort -u", 0.5),
    Target("dedup-known", "sort and comm", 3),
    Target("crawl", "Scrapy, in memory", 0.9),
    Target("crawl", "scrapy-redis", 1),
    Limit("crawl-scheduler", 15e-6, beyond="Scrapy, in memory, serialized"),
    Target("ingest", "rocksdict", 1.7),
    Target("queue-4", "persist-queue, SQLiteAckQueue", 20),
    Target("queue-4", "diskcache.Deque", 3),
    Target("queue-4", "huey, SqliteStorage", 1.5),
    Limit("queue-1", 0.000_025),
    Target("queue-waiting", "Rack, 1,000 waiting", 1 / 1.5),  # at most one and a half times the time for a million
]
