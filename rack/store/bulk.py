"""Bulk writes larger than memory: pairs wait, packed, for their shard's turn, within a budget of bytes.

Pairs that come in any order touch nearly every page of a B-tree that is much larger than what they are together, so
what counts is how many are written to a shard at a time. Two things make that many: only the fullest shard is written
when the budget is used up, and pairs wait marshalled, in about their own size, where Python's objects take four times
as much. A shard's pairs are written in order of their keys, so that each page is changed once. They are sorted before
they are packed, some thousand at a time, which the processor's caches hold; then only sorted runs are to be merged.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import eq, itemgetter
from typing import Generic, TypeVar

from rack.shard.base import Pair
from rack.store.rotation import rotated
from rack.store.router import router

Result = TypeVar("Result")

#: What bulk writes hold, in bytes, if the user does not say.
MEMORY = 96 << 20
LEAST_MEMORY = 1 << 20

# Pairs in a transaction. LMDB's limit of 131,071 pages is kept by the count: a pair changes some pages. What fits into
# the budget as a whole should be one transaction a shard. What does not is written in smaller ones: the pages that they
# leave behind are used again by the next but one, so that the file stays at half the size.
_PAIRS = 20_000
_PAIRS_OVERFLOWING = 2048
_OBJECT_BYTES = 260  # what a pair takes as Python objects while it is sorted, besides its bytes
_FRESH_PART = 8  # of the budget, the part for pairs that are not packed yet, but at most:
_FRESH_BYTES = 3 << 20
_VERSION = 2  # of marshal: the fastest
_KEY = itemgetter(0)


class Bulk(Generic[Result]):
    """Distributes pairs; ``write(number, block)`` writes a block to a shard, in one transaction."""

    def __init__(self, shards: int, write: Callable[[int, list[Pair]], Result], memory: int) -> None:
        self._write = write
        self._fresh: list[list[Pair]] = [[] for _ in range(shards)]
        self._packed: list[list[bytes]] = [[] for _ in range(shards)]
        self._sizes = [0] * shards  # bytes, packed
        self._counts = [0] * shards  # pairs, packed
        self._fresh_bytes = min(memory // _FRESH_PART, _FRESH_BYTES)
        self._budget = memory - self._fresh_bytes
        self._transaction_pairs = _PAIRS

    def run(self, pairs: Iterable[Pair]) -> Iterator[Result]:
        """Take in all pairs and write them; yield what the writes return. A later pair wins over an earlier one."""
        append_to = router([fresh.append for fresh in self._fresh])
        number_of = router(range(len(self._fresh)))
        size = 0
        for pair in pairs:
            key, value = pair
            append_to(key)(pair)
            size += len(key) + len(value) + _OBJECT_BYTES
            if size >= self._fresh_bytes:
                if len(value) >= self._fresh_bytes:  # not packed: marshal holds no 2 GiB
                    yield from self._flush(number_of(key))
                self._pack()
                size = 0
                while (fullest := self._over_budget()) is not None:
                    self._transaction_pairs = _PAIRS_OVERFLOWING
                    yield from self._flush(fullest)
        for number in rotated(range(len(self._fresh))):
            yield from self._flush(number)

    def _pack(self) -> None:
        for number, fresh in enumerate(self._fresh):
            if fresh:
                fresh.sort(key=_KEY)
                packed = marshal.dumps(fresh, _VERSION)
                self._packed[number].append(packed)
                self._sizes[number] += len(packed)
                self._counts[number] += len(fresh)
                fresh.clear()

    def _over_budget(self) -> int | None:
        """Return the fullest shard if what is held, with what unpacking that shard takes, is more than the budget."""
        fullest = max(range(len(self._sizes)), key=self._sizes.__getitem__)
        unpacked = self._sizes[fullest] + self._counts[fullest] * _OBJECT_BYTES
        return fullest if sum(self._sizes) + unpacked > self._budget else None

    def _flush(self, number: int) -> Iterator[Result]:
        block: list[Pair] = []
        packed = self._packed[number]
        while packed:
            block += marshal.loads(packed.pop(0))
        block += self._fresh[number]
        self._fresh[number].clear()
        self._sizes[number] = self._counts[number] = 0
        block.sort(key=_KEY)  # stable, and quick: it is made of sorted runs
        for at in range(0, len(block), self._transaction_pairs):
            part = block[at : at + self._transaction_pairs]
            if any(map(eq, map(_KEY, part), map(_KEY, islice(part, 1, None)))):
                part = list(dict(part).items())  # in the same order, the last value of each key
            yield self._write(number, part)
