"""Bulk writes larger than memory: pairs wait, packed, for their shard's turn, within a budget of bytes.

Pairs that come in any order touch nearly every page of a B-tree that is much larger than what they are together, so
what counts is how many are written to a shard at a time. Two things make that many: only the fullest shard is relieved
when the budget is used up, and pairs wait marshalled, in about their own size, where Python's objects take four times
as much. A shard's pairs are written in order of their keys, so that each page is changed once. They are sorted before
they are packed, some thousand at a time, which the processor's caches hold; then only sorted runs are to be merged.

What a shard that is empty has no room for in memory waits on the disk, in sorted runs (:mod:`rack.store.spill`). At the
end they are merged, and appended to the shard.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, Generic, TypeVar

from rack.store.rotation import rotated
from rack.store.router import KEY_DIGEST, Digest, numbers_of
from rack.store.spill import Spill, merged_runs
from rack.store.taking import size_of

Result = TypeVar("Result")

#: What bulk writes hold, in bytes, if the user does not say.
MEMORY = 96 << 20
LEAST_MEMORY = 1 << 20

_OBJECT_BYTES = 260  # what a pair takes as Python objects while it is sorted, besides its bytes
_KEY_OBJECT_BYTES = 160  # of a key alone
_FRESH_PART = 8  # of the budget, the part for pairs that are not packed yet, but at most:
_FRESH_BYTES = 3 << 20
_MERGE_PART = 8  # of the budget, the part for blocks of runs that are merged
_RUN_BYTES = 200 << 10  # which such a block has at most, as objects
_LEAST_RUNS = 4
_LEAST_SIZE = 2048  # that a large block is cut down to
_SPILLED_BYTES = 1024  # what fills pages of its own needs no order
_VERSION = 2  # of marshal: the fastest
#: Of a pair.
KEY = itemgetter(0)


class Bulk(Generic[Result]):
    """Distributes pairs, or keys (``values``); ``write(number, block)`` writes a block to a shard, in one transaction.

    Blocks are in order of their keys; equal keys are in the order in which they came, in one block or several.
    ``size``: how many a block has at most. ``spill``: where they may wait.
    """

    def __init__(
        self,
        shards: int,
        write: Callable[[int, list[Any]], Result],
        size: int,
        memory: int,
        spill: Spill | None = None,
        values: bool = True,
        digest: Digest = KEY_DIGEST,
    ) -> None:
        self._write = write
        self._size = min(size, max(_LEAST_SIZE, memory // (_MERGE_PART * _OBJECT_BYTES)))
        self._digest = digest
        self._spill = spill
        self._key = KEY if values else None
        self._object_bytes = _OBJECT_BYTES if values else _KEY_OBJECT_BYTES
        self._fresh: list[list[Any]] = [[] for _ in range(shards)]
        self._packed: list[list[bytes]] = [[] for _ in range(shards)]
        self._sizes = [0] * shards  # bytes, packed
        self._counts = [0] * shards  # pairs, packed
        merge_bytes = memory // _MERGE_PART if spill is not None else 0
        self._most_runs = max(_LEAST_RUNS, merge_bytes // _RUN_BYTES)
        self._fresh_bytes = min(memory // _FRESH_PART, _FRESH_BYTES)
        self._budget = memory - self._fresh_bytes - merge_bytes

    def run(self, blocks: Iterable[list[Any]]) -> Iterator[Result]:
        """Take in blocks of them and write them; yield what the writes return. Later pairs win over earlier ones.

        An exception of ``blocks`` is raised once those that came before it are written; not so an interrupt (a
        BaseException such as KeyboardInterrupt), which has to end this soon.
        """
        list_of = self._fresh.__getitem__
        shards = len(self._fresh)
        held = 0
        failure = None
        is_writing = False
        try:
            for block in blocks:
                numbers = numbers_of(map(KEY, block) if self._key else block, shards, self._digest)
                deque(map(list.append, map(list_of, numbers), block), maxlen=0)
                size = size_of(block)
                held += size + len(block) * self._object_bytes
                if held >= self._fresh_bytes:
                    is_writing = True
                    if size >= self._fresh_bytes:
                        yield from self._write_large(block)
                    self._pack()
                    held = 0
                    while (fullest := self._over_budget()) is not None:
                        yield from self._relieve(fullest)
                    is_writing = False
        except Exception as error:
            if is_writing:
                raise
            failure = error
        yield from self._flush_all()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # whose traceback has this frame

    def _write_large(self, block: list[Any]) -> Iterator[Result]:
        """Write the shards that have large items, which are not packed: marshal holds no 2 GiB."""
        large = [item for item in block if size_of([item]) >= self._fresh_bytes]
        if self._key:
            large = list(map(self._key, large))
        for number in set(numbers_of(large, len(self._fresh), self._digest)):
            yield from self._flush(number)

    def _pack(self) -> None:
        for number, fresh in enumerate(self._fresh):
            if fresh:
                fresh.sort(key=self._key)
                packed = marshal.dumps(fresh, _VERSION)
                self._packed[number].append(packed)
                self._sizes[number] += len(packed)
                self._counts[number] += len(fresh)
                fresh.clear()

    def _over_budget(self) -> int | None:
        """Return the fullest shard if what is held, with what unpacking that shard takes, is more than the budget."""
        fullest = max(range(len(self._sizes)), key=self._sizes.__getitem__)
        unpacked = self._sizes[fullest] + self._counts[fullest] * self._object_bytes
        return fullest if sum(self._sizes) + unpacked > self._budget else None

    def _relieve(self, number: int) -> Iterator[Result]:
        """Have what is held of a shard out of memory."""
        size = self._sizes[number]
        spill = self._spill
        if spill is None or size > self._counts[number] * _SPILLED_BYTES or not spill.takes(number):
            yield from self._flush(number)
            return
        block, is_ascending = self._unpacked(number)
        if is_ascending and not spill.count(number):  # what comes in order is appended as it is
            yield from self._write_parts(number, [block])
        elif not spill.write(number, block, size):
            # No room: all is written, and so what waits on the disk gives its room back.
            yield from self._write_behind_runs(number, block)
            yield from self._flush_all()
        elif spill.count(number) >= self._most_runs:
            yield from self._write_behind_runs(number, [])

    def _flush_all(self) -> Iterator[Result]:
        for number in rotated(range(len(self._fresh))):
            if self._fresh[number] or self._packed[number] or (self._spill is not None and self._spill.count(number)):
                yield from self._flush(number)

    def _flush(self, number: int) -> Iterator[Result]:
        """Write all that waits for a shard."""
        block, _ = self._unpacked(number)
        yield from self._write_behind_runs(number, block)

    def _unpacked(self, number: int) -> tuple[list[Any], bool]:
        """Return, in order, what is held of a shard, which is held no more; and whether it had come in order."""
        block: list[Any] = []
        is_ascending = len(self._packed[number]) > 1
        packed = self._packed[number]
        packed.reverse()
        while packed:
            run = marshal.loads(packed.pop())
            is_ascending = is_ascending and not (block and run[0] <= block[-1])
            block += run
        block += self._fresh[number]
        self._fresh[number].clear()
        self._sizes[number] = self._counts[number] = 0
        block.sort(key=self._key)  # stable, and quick: it is made of sorted runs
        return block, is_ascending

    def _write_behind_runs(self, number: int, block: list[Any]) -> Iterator[Result]:
        """Write the runs of a shard, and a sorted block that came after them."""
        if self._spill is None or not self._spill.count(number):
            yield from self._write_parts(number, [block])
            return
        merged = merged_runs([*self._spill.read(number), iter([block])], self._key)
        yield from self._write_parts(number, merged)
        self._spill.forget(number)

    def _write_parts(self, number: int, blocks: Iterable[list[Any]]) -> Iterator[Result]:
        """Write sorted blocks."""
        for part in _regrouped(blocks, self._size):
            yield self._write(number, part)


def _regrouped(blocks: Iterable[list[Any]], size: int) -> Iterator[list[Any]]:
    """Yield what blocks have in lists of ``size``."""
    left: list[Any] = []
    for block in blocks:
        left += block
        at = 0
        while len(left) - at >= size:
            yield left[at : at + size]
            at += size
        left = left[at:] if at else left
    if left:
        yield left
