"""Going through shards in order of the keys' bytes, a block at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rack.shard.base import BLOCK_ITEMS, Shard, is_last

_FIRST_ITEMS = 128  # of a shard's first block: who wants but a few entries does not pay for a thousand
_GROWTH = 4
# Of all shards that are merged, keys in memory: the processor's caches are to hold them until they are used.
_MERGED_ITEMS = 8192


@dataclass(frozen=True, slots=True)
class Span:
    """The keys from ``start`` up to but not ``stop`` (None: to the end), forward or from the end; at most ``limit``."""

    start: bytes = b""
    stop: bytes | None = None
    reverse: bool = False
    limit: int | None = None


ALL = Span()
BACKWARD = Span(reverse=True)


class Reader:
    """Reads a shard's keys (``values``: pairs) in a span, in blocks that grow.

    Each block is read when it is asked for, so the shard may change between. A key that is there throughout is read
    exactly once.
    """

    def __init__(
        self, shard: Shard, span: Span, values: bool, first: int = _FIRST_ITEMS, most: int = BLOCK_ITEMS
    ) -> None:
        self._scan = shard.scan
        self._start, self._stop = span.start, span.stop
        self._reverse = span.reverse
        self._values = values
        self._left = span.limit
        self._size = first
        self._most = most
        self.more = span.limit != 0  # whether there may be another block

    def read(self) -> list[Any]:
        """Return the next block; it may be the last one, and may be empty."""
        limit = self._size if self._left is None else min(self._size, self._left)
        block = self._scan(self._start, self._stop, self._reverse, self._values, limit)
        if is_last(block, limit, self._values):
            self.more = False
            return block
        last = block[-1][0] if self._values else block[-1]
        if self._reverse:
            self._stop = last
        else:
            self._start = last + b"\0"  # the least key behind it
        if self._left is not None:
            self._left -= len(block)
            self.more = self._left > 0
        self._size = min(self._size * _GROWTH, self._most)
        return block


def blocks(shard: Shard, span: Span, values: bool) -> Iterator[list[Any]]:
    """Yield a shard's keys (``values``: pairs) in ``span``, in order, in blocks."""
    reader = Reader(shard, span, values)
    while reader.more:
        if block := reader.read():
            yield block


def merged(shards: Sequence[Shard], span: Span, values: bool) -> Iterator[list[Any]]:
    """Yield the keys (``values``: pairs) that all shards have in ``span``, in order, in blocks.

    ``pending`` holds, for each shard, what was read and not yielded, in ascending order. What may be yielded ends at
    the nearest end of a block: behind it, that shard may have more. Sorting the concatenated runs is faster than
    heapq.merge.
    """
    if len(shards) == 1:
        yield from blocks(shards[0], span, values)
        return
    left, first = span.limit, _FIRST_ITEMS
    if left is not None:
        first = min(first, 2 * left // len(shards) + 8)  # a shard has about its share of them
    most = _MERGED_ITEMS // len(shards) // (2 if values else 1)
    most = min(BLOCK_ITEMS, max(_FIRST_ITEMS, most))
    readers = [Reader(shard, span, values, first, most) for shard in shards]
    key_of = itemgetter(0) if values else None
    pending: list[list[Any]] = [[] for _ in readers]
    ends: list[Any] = [None] * len(readers)  # the last key read
    while left is None or left > 0:
        for number, reader in enumerate(readers):
            if reader.more and not pending[number] and (block := reader.read()):
                ends[number] = block[-1][0] if values else block[-1]
                pending[number] = block[::-1] if span.reverse else block
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
