"""The keys of a shard that has no order of its own, in order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from rack.shard.base import BLOCK_BYTES, BLOCK_ITEMS
from rack.shard.redis.parts import size_of

_LOOKED_UP = 16, 128  # values that are asked for at a time, as nobody knows how large they are: at first, and at most


class Gathered:
    """All keys of a shard that has no order of its own: read once, for one pass over them."""

    def __init__(
        self,
        gather: Callable[[], list[bytes]],
        get_many: Callable[[Sequence[bytes]], list[bytes | None]],
    ) -> None:
        self._gather = gather
        self._get_many = get_many
        self._keys: list[bytes] | None = None
        self._looked_up, self._most = _LOOKED_UP

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        if self._keys is None:
            self._keys = self._gather()
        keys = self._keys
        begin = bisect_left(keys, start)
        end = len(keys) if stop is None else bisect_left(keys, stop)
        if not values:
            return keys[max(begin, end - limit) : end][::-1] if reverse else keys[begin : min(end, begin + limit)]
        block: list[Any] = []
        size = 0
        while begin < end and len(block) < limit and size < BLOCK_BYTES:
            # What is gone by now is left out: a block that is short would be taken for the last one.
            most = min(end - begin, limit - len(block), self._looked_up)
            some = keys[end - most : end][::-1] if reverse else keys[begin : begin + most]
            begin, end = (begin, end - most) if reverse else (begin + most, end)
            found = zip(some, self._get_many(some), strict=True)
            pairs: list[Any] = [pair for pair in found if pair[1] is not None]
            found_size = size_of(pairs)
            self._looked_up = max(1, min(self._most, BLOCK_BYTES * most // (found_size + 1)))
            size += found_size
            block += pairs
        return block
