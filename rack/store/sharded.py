"""A store at bytes level: routes a key to its shard, fans out over all shards, merges what they scan."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import compress, repeat
from operator import itemgetter
from typing import Any, TypeVar

from rack.shard.base import Pair, Shard
from rack.shard.spans import ALL, Span
from rack.store.bulk import KEY, MEMORY, Bulk
from rack.store.merge import merged
from rack.store.rotation import rotated
from rack.store.router import KEY_DIGEST, Digest, numbers_of, router
from rack.store.spill import Spill
from rack.store.taking import items_in_blocks

Result = TypeVar("Result")
Change = tuple[bytes, bytes | None]  # a key, and its new value; None: it is deleted


class Store:
    """``route(key)`` is the shard that ``key`` belongs to: operations on one key go straight to it.

    ``memory``: how many bytes a bulk write may hold. ``digest``: what hashes the keys.
    """

    #: Gives a clock, in nanoseconds, that several machines share; None: all who use the store are on one.
    clock: Callable[[], Callable[[], int]] | None = None

    def __init__(self, shards: Sequence[Shard], memory: int | None = None, digest: Digest = KEY_DIGEST) -> None:
        self.shards = tuple(shards)
        self.memory = memory or MEMORY
        self.digest = digest
        self.route: Callable[[bytes], Shard] = router(self.shards, digest)

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

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """Return the keys, in their order, with their values, None where there is none; a transaction a shard."""
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        for shard, part in self._parts(found):
            found.update(zip(part, shard.get_many(part), strict=True))
        return found

    def add_new(self, keys: Iterable[bytes], value_of: Callable[[bytes], bytes] | None = None) -> Iterator[list[bytes]]:
        """Add the keys that are not there; yield those that this call added, a transaction at a time.

        :param keys: none is there twice.
        :param value_of: gives the value of a key. None: it has none.
        """
        for shard, part in self._parts(keys):
            for at in range(0, len(part), shard.transaction):
                some = part[at : at + shard.transaction]
                pairs = list(zip(some, repeat(b"") if value_of is None else map(value_of, some)))  # noqa: B905
                yield list(compress(some, shard.add_many(pairs)))

    def _parts(self, keys: Iterable[bytes]) -> Iterator[tuple[Shard, list[bytes]]]:
        """Yield the keys of each shard in order: neighbours are looked for where the last one was found."""
        keys = list(keys)
        by_number: defaultdict[int, list[bytes]] = defaultdict(list)
        numbers = numbers_of(keys, len(self.shards), self.digest)
        deque(map(list.append, map(by_number.__getitem__, numbers), keys), maxlen=0)
        for number, part in rotated(list(by_number.items())):
            part.sort()
            yield self.shards[number], part

    def put_all(self, blocks: Iterable[list[Any]], values: bool = True) -> None:
        """Put pairs, which are streamed; a later one wins over an earlier one with the same key.

        Without ``values`` the blocks are of keys, whose values are empty.
        """

        def write(shard: Shard, block: list[Any]) -> None:
            shard.put_many(block if values else list(zip(block, repeat(b""))))

        with closing(self._spill(values)) as spill:
            for _ in self._bulk(blocks, write, values, spill):
                pass

    def add_all(self, blocks: Iterable[list[Any]], values: bool = True) -> int:
        """Add the pairs, or keys, that are not there, streaming; return how many this call added."""

        def write(shard: Shard, block: list[Any]) -> int:
            return sum(shard.add_many(block if values else list(zip(block, repeat(b"")))))

        with closing(self._spill(values)) as spill:
            return sum(self._bulk(blocks, write, values, spill))

    def delete_all(self, keys: Iterable[bytes]) -> int:
        """Delete the keys, streaming; return how many were there."""
        return sum(self._bulk(items_in_blocks(keys), lambda shard, block: shard.delete_many(block), values=False))

    def change_each(self, changes: Iterable[Change]) -> Iterator[list[Change]]:
        """Put the pairs, and delete the keys whose value is None; a transaction a shard. No key is there twice.

        Yield what has been written, shard by shard.
        """
        route = self.route
        by_shard: defaultdict[Shard, list[Change]] = defaultdict(list)
        for change in sorted(changes, key=itemgetter(0)):
            by_shard[route(change[0])].append(change)
        for shard in rotated(self.shards):
            if changed := by_shard[shard]:
                pairs = [(key, value) for key, value in changed if value is not None]
                shard.change_many(pairs, [key for key, value in changed if value is None])
                yield changed

    def _bulk(
        self,
        blocks: Iterable[list[Any]],
        write: Callable[[Shard, list[Any]], Result],
        values: bool,
        spill: Spill | None = None,
    ) -> Iterator[Result]:
        """Have ``write`` write what is in the blocks, each shard's sorted and a good many at a time."""
        shards = self.shards

        def write_to(number: int, block: list[Any]) -> Result:
            return write(shards[number], block)

        size = shards[0].transaction
        return Bulk(len(shards), write_to, size, self.memory, spill, values, self.digest).run(blocks)

    def _spill(self, values: bool) -> Spill:
        return Spill(self.shards[0].path, len(self.shards), self._is_empty, KEY if values else None)

    def _is_empty(self, number: int) -> bool:
        """Return whether a shard has no entries; raise what keeps it from getting any."""
        self.shards[number].put_many([])
        return not self.shards[number].count()

    # In order

    def all_keys(self, span: Span = ALL) -> Iterator[list[bytes]]:
        """Yield the keys in order of their bytes, in blocks. A key that is there throughout is seen exactly once."""
        return merged(self.shards, span, values=False)

    def all_pairs(self, span: Span = ALL) -> Iterator[list[Pair]]:
        """Yield the pairs in order of the keys' bytes, in blocks."""
        return merged(self.shards, span, values=True)
