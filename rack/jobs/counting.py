"""How many jobs a queue has in each state, by the records of its shards. Nothing is written or waited for."""

from __future__ import annotations

from collections.abc import Iterable
from time import time_ns

from rack.jobs import records
from rack.jobs.job import Counts
from rack.jobs.records import DELAYED, LEASED, Counters
from rack.shard.base import Shard
from rack.shard.spans import Span, blocks


def counted(shards: Iterable[Shard]) -> Counts:
    """Count the jobs in each state. O(s + k) for k jobs that are leased, or whose delay is over."""
    shards = list(shards)
    found = _counters(shards)
    jobs, delayed, done, failed = (
        sum(getattr(each, name) for each in found) for name in ("jobs", "delayed", "done", "failed")
    )
    leased = sum(map(_leased, shards))
    if delayed:
        delayed -= sum(map(_ready, shards))
    return Counts(max(0, jobs - leased - delayed), delayed, leased, done, failed)


def to_be_done(shards: Iterable[Shard]) -> int:
    """Count the jobs that are waiting, delayed or leased. O(s)."""
    return max(0, int(sum(each.jobs for each in _counters(shards))))


def _counters(shards: Iterable[Shard]) -> list[Counters]:
    return [
        Counters(data) for shard in shards for _, data in shard.scan(records.COUNTERS, records.DELAYED, False, True)
    ]


def _leased(shard: Shard) -> int:
    return sum(map(len, blocks(shard, Span(LEASED, records.BEHIND_LEASED), values=False)))


def _ready(shard: Shard) -> int:
    """Return how many of the delayed jobs are ready by now, and only have not been moved yet."""
    span = Span(DELAYED, records.until(DELAYED, time_ns()))
    return sum(bool(data) for block in blocks(shard, span, values=True) for _, data in block)
