"""Spans of keys, and going through a shard's keys in one, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rack.shard.base import BLOCK_ITEMS, Shard, is_last

FIRST_ITEMS = 128  # of a shard's first block: who wants but a few entries does not pay for a thousand
_GROWTH = 4


class Span(NamedTuple):
    """The keys from ``start`` up to but not ``stop`` (None: to the end), forward or from the end; at most ``limit``.

    ``in_order``: the order matters, and is not only one that is there anyway.
    """

    start: bytes = b""
    stop: bytes | None = None
    reverse: bool = False
    limit: int | None = None
    in_order: bool = False


ALL = Span()
BACKWARD = Span(reverse=True)


class Reader:
    """Reads a shard's keys (``values``: pairs) in a span, in blocks that grow.

    Each block is read when it is asked for, so the shard may change between. A key that is there throughout is read
    exactly once.
    """

    def __init__(
        self, shard: Shard, span: Span, values: bool, first: int = FIRST_ITEMS, most: int = BLOCK_ITEMS
    ) -> None:
        self._scan = shard.scanning()
        self._start, self._stop = span.start, span.stop
        self._reverse = span.reverse
        self._values = values
        self._left = span.limit
        self.size = first  # how many items the next block has at most
        self._most = most
        self.more = span.limit != 0  # whether there may be another block

    def read(self) -> list[Any]:
        """Return the next block; it may be the last one, and may be empty."""
        limit = self.size if self._left is None else min(self.size, self._left)
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
        self.size = min(self.size * _GROWTH, self._most)
        return block


def blocks(shard: Shard, span: Span, values: bool) -> Iterator[list[Any]]:
    """Yield a shard's keys (``values``: pairs) in ``span``, in order, in blocks."""
    reader = Reader(shard, span, values)
    while reader.more:
        if block := reader.read():
            yield block
