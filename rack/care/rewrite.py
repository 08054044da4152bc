"""Shards written anew, in order of their keys: so their pages are full, and nothing in them is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import NamedTuple

from rack.care.alone import Nobody
from rack.shard import shard_class
from rack.shard.base import Pair, Shard
from rack.shard.spans import ALL
from rack.store.manifest import Manifest, Request
from rack.store.merge import merged
from rack.store.router import Digest, router
from rack.system.disk import sync_path

_PAIRS = 4096  # in a transaction
_BYTES = 4 << 20  # that wait for theirs

Report = Callable[[int], object]


class Job(NamedTuple):
    """From where the shards come, and to where they go. ``request`` has the hash of the store."""

    source: str
    old: Manifest
    target: str
    new: Manifest
    request: Request


def groups(old: int, new: int) -> int:
    """Return into how many parts a store can be cut so that no key leaves its part when it gets other shards.

    Keys are routed by ranges: part ``i`` of ``n`` is the same range however many shards it consists of.
    """
    return gcd(old, new)


def rewrite(job: Job, part: int, report: Report) -> None:
    """Write one part of the new store, and have it on the disk: each old shard is read once, each new one appended to.

    Nobody else has either store open.
    """
    count = groups(job.old.shards, job.new.shards)
    cls = shard_class(job.new.engine)
    opened: list[Shard] = []
    numbers = range(part * job.new.shards // count, (part + 1) * job.new.shards // count)
    specs = [job.new.spec(job.target, number, job.request, "process", False) for number in numbers]
    try:
        sources = [
            cls.opened(job.old.spec(job.source, number, job.request, "process", False), Nobody(), opened)
            for number in range(part * job.old.shards // count, (part + 1) * job.old.shards // count)
        ]
        for spec in specs:
            cls.create(spec)
        targets = [cls.opened(spec, Nobody(), opened) for spec in specs]
        _stream(sources, targets, job.new.shards, numbers[0], job.new.digest, report)
    finally:
        for shard in opened:
            shard.close()
    for spec in specs:
        cls.shrink(spec.path)
        sync_path(spec.path)


def _stream(
    sources: Sequence[Shard], targets: Sequence[Shard], shards: int, first: int, digest: Digest, report: Report
) -> None:
    waiting: list[list[Pair]] = [[] for _ in targets]
    number_of = router(range(shards), digest)
    count = size = 0

    def flush(least: int) -> None:
        nonlocal size
        for target, pairs in zip(targets, waiting, strict=True):
            if len(pairs) >= least:
                target.put_many(pairs)
                pairs.clear()
        size = 0

    for block in merged(sources, ALL, values=True):
        if len(targets) == 1:
            waiting[0] += block
        else:
            for pair in block:
                waiting[number_of(pair[0]) - first].append(pair)
        count += len(block)
        size += sum(len(key) + len(value) for key, value in block)
        if size >= _BYTES:
            flush(1)
        elif count >= _PAIRS:
            flush(_PAIRS)
        if count >= _PAIRS:
            report(count)
            count = 0
    flush(1)
    report(count)
