"""What Rack promises to reach, as medians of ratios within rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

    def reached(self, results: Mapping[str, Result]) -> float | None:
        """The seconds that it took, or None if it was not measured."""
        series = results[self.benchmark].series[0] if self.benchmark in results else None
        return series.time if series and series.rounds else None


HAND = "py-lmdb by hand"
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
    Target("update", HAND, 0.5),
    Target("items", HAND, 1 / 3),  # at most three times the time
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
    Target("ingest", "rocksdict", 0.9),
]
