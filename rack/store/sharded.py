"""A store at bytes level: routes a key to its shard, fans out over all shards, merges what they scan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rack.shard.base import Pair, Shard
from rack.shard.spans import ALL, Span
from rack.store.bulk import MEMORY, Bulk
from rack.store.merge import merged
from rack.store.rotation import rotated
from rack.store.router import router

Result = TypeVar("Result")


class Store:
    """``route(key)`` is the shard that ``key`` belongs to: operations on one key go straight to it.

    ``memory``: how many bytes a bulk write may hold.
    """

    def __init__(self, shards: Sequence[Shard], memory: int | None = None) -> None:
        self.shards = tuple(shards)
        self.memory = memory or MEMORY
        self.route: Callable[[bytes], Shard] = router(self.shards)

    def count(self) -> int:
        """Return the number of entries: O(shards). Exact for each shard, at slightly different moments."""
        return sum(shard.count() for shard in self.shards)

    def clear(self) -> None:
        for shard in rotated(self.shards):
            shard.clear()

    def sync(self) -> None:
        for shard in self.shards:
            shard.sync()

    def pop_first(self) -> Pair | None:
        """Remove and return some pair; None only if at some moment every shard was empty at once."""
        versions = None
        while True:
            for shard in rotated(self.shards):
                pair = shard.pop_first()
                if pair is not None:
                    return pair
            # Each was empty when it was looked at; if none changes while all are looked at again, all were at once.
            before, versions = versions, [shard.version() for shard in self.shards]
            if before == versions:
                return None

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values in the order of ``keys``, None where there is none."""
        found: list[bytes | None] = [None] * len(keys)
        for shard, positions in self._positions(keys):
            for position, value in zip(positions, shard.get_many([keys[at] for at in positions]), strict=True):
                found[position] = value
        return found

    def add_each(self, pairs: Sequence[Pair], added: list[bool]) -> None:
        """Add the pairs, a transaction a shard; set ``added[i]`` if this call added pair ``i``.

        When it raises, ``added`` tells what was done until then.
        """
        for shard, positions in self._positions([key for key, _ in pairs]):
            for position, new in zip(positions, shard.add_many([pairs[at] for at in positions]), strict=True):
                added[position] = new

    def _positions(self, keys: Sequence[bytes]) -> list[tuple[Shard, list[int]]]:
        route = self.route
        by_shard: defaultdict[Shard, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            by_shard[route(key)].append(position)
        return rotated(list(by_shard.items()))

    def put_all(self, pairs: Iterable[Pair]) -> None:
        """Put the pairs, which are streamed; a later pair wins over an earlier one with the same key."""
        for _ in self._bulk(pairs, lambda shard, block: shard.put_many(block)):
            pass

    def add_all(self, pairs: Iterable[Pair]) -> int:
        """Add the pairs whose keys are not there, streaming; return how many this call added."""
        return sum(self._bulk(pairs, lambda shard, block: sum(shard.add_many(block))))

    def delete_all(self, keys: Iterable[bytes]) -> int:
        """Delete the keys, streaming; return how many were there."""
        pairs = ((key, b"") for key in keys)
        return sum(self._bulk(pairs, lambda shard, block: shard.delete_many([key for key, _ in block])))

    def _bulk(self, pairs: Iterable[Pair], write: Callable[[Shard, list[Pair]], Result]) -> Iterator[Result]:
        """Have ``write`` write the pairs, each shard's sorted and a good many at a time."""
        shards = self.shards
        return Bulk(len(shards), lambda number, block: write(shards[number], block), self.memory).run(pairs)

    # In order

    def all_keys(self, span: Span = ALL) -> Iterator[list[bytes]]:
        """Yield the keys in order of their bytes, in blocks. A key that is there throughout is seen exactly once."""
        return merged(self.shards, span, values=False)

    def all_pairs(self, span: Span = ALL) -> Iterator[list[Pair]]:
        """Yield the pairs in order of the keys' bytes, in blocks."""
        return merged(self.shards, span, values=True)
