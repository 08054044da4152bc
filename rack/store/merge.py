"""Going through all shards at once, in order of the keys' bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from rack.shard.base import BLOCK_ITEMS, Shard
from rack.shard.spans import FIRST_ITEMS, Reader, Span, blocks

# Of all shards that are merged, keys in memory: the processor's caches are to hold them until they are used.
_MERGED_ITEMS = 8192


def merged(shards: Sequence[Shard], span: Span, values: bool) -> Iterator[list[Any]]:
    """Yield the keys (``values``: pairs) that all shards have in ``span``, in order, in blocks.

    ``pending`` holds, for each shard, what was read and not yielded, in ascending order. What may be yielded ends at
    the nearest end of a block: behind it, that shard may have more. Sorting the concatenated runs is faster than
    heapq.merge.
    """
    if len(shards) == 1:
        yield from blocks(shards[0], span, values)
        return
    if not shards[0].ordered:
        yield from _one_by_one(shards, span, values)
        return
    left, first = span.limit, FIRST_ITEMS
    if left is not None:
        first = min(first, 2 * left // len(shards) + 8)  # a shard has about its share of them
    most = _MERGED_ITEMS // len(shards) // (2 if values else 1)
    most = min(BLOCK_ITEMS, max(FIRST_ITEMS, most))
    readers = [Reader(shard, span, values, first, most) for shard in shards]
    key_of = itemgetter(0) if values else None
    pending: list[list[Any]] = [[] for _ in readers]
    ends: list[Any] = [None] * len(readers)  # the last key read
    while left is None or left > 0:
        for number, reader in enumerate(readers):
            # Where little is left, the nearest end would soon be there: a stretch would be short, and cost as much.
            if reader.more and len(pending[number]) <= reader.size // 2 and (block := reader.read()):
                ends[number] = block[-1][0] if values else block[-1]
                pending[number] = block[::-1] + pending[number] if span.reverse else pending[number] + block
        bounds = [end for reader, end in zip(readers, ends, strict=True) if reader.more]
        block = []
        if not bounds:
            for run in pending:
                block += run
            pending = [[] for _ in readers]
        elif span.reverse:
            bound = max(bounds)
            for number, run in enumerate(pending):
                cut = bisect_left(run, bound, key=key_of)
                block += run[cut:]
                pending[number] = run[:cut]
        else:
            bound = min(bounds)
            for number, run in enumerate(pending):
                cut = bisect_right(run, bound, key=key_of)
                block += run[:cut]
                pending[number] = run[cut:]
        if not block:
            return
        block.sort(key=key_of, reverse=span.reverse)
        if left is not None:
            block = block[:left]
            left -= len(block)
        yield block


def _one_by_one(shards: Sequence[Shard], span: Span, values: bool) -> Iterator[list[Any]]:
    """Yield what shards without an order have: each in order, one after another."""
    if span.in_order:
        shards[0].scan(b"", None, False, False)  # which says why it cannot be
    left = span.limit
    for shard in reversed(shards) if span.reverse else shards:
        for block in blocks(shard, span._replace(limit=left), values):
            yield block
            if left is not None:
                left -= len(block)
