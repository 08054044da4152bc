"""The operands of set algebra: whatever they are, as keys in the bytes and the shards of the container they meet.

A store of the same shape (as many shards, the same key codec; the engine may be another) is read as it is. Another
store is looked up in where that will do: not one of whole keys for digests. All else is gathered: in memory, and in an
anonymous store if there is more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from math import inf
from typing import Any

from rack.algebra.joins import Block, Blocks, Keys
from rack.container.base import Container
from rack.container.same import check_keys, same_codec
from rack.shard.base import BLOCK_ITEMS, Shard, is_last
from rack.store.router import router
from rack.store.taking import items_in_blocks

Report = Callable[[int], object]

# Keys that are read side by side. A thousand of each operand stay in the processor's caches while they are compared and
# written; with eight thousand it took 1.2 to 1.7 times as long.
_BLOCK_ITEMS = BLOCK_ITEMS
_SYNCED = 8  # times as many where each block that is written waits for the disk
_ITEMS_IN_MEMORY = 32 * BLOCK_ITEMS  # of all operands and shards that are read at once, but for each at least:
_BLOCK_ITEMS_LEAST = BLOCK_ITEMS // 4
_GATHERED_BYTES = 16 << 20
_KEY_OVERHEAD = 120


class Operand(ABC):
    """It can be pickled, to be used in a worker process; but for a snapshot, which belongs to its process."""

    def _is_shareable(self) -> bool:
        """Return whether a worker process can use it (see :func:`rack.system.workers.fan_out`)."""
        return True

    @abstractmethod
    def keys(self, number: int, block_items: int, report: Report) -> Keys:
        """Return those that belong to shard ``number``; ``report`` is told how many were read."""


class Stored(Operand):
    """A store of the same shape."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def _is_shareable(self) -> bool:
        return self.container._is_shareable()

    def keys(self, number: int, block_items: int, report: Report) -> Keys:
        return _StoredKeys(self.container._store.shards[number], block_items, report)


class _StoredKeys(Keys):
    def __init__(self, shard: Shard, block_items: int, report: Report) -> None:
        self._shard = shard
        self._block_items = block_items
        self._report = report

    def count(self) -> float:
        return self._shard.count()

    def blocks(self) -> Blocks:
        start, limit, scan = b"", self._block_items, self._shard.scanning()
        while block := scan(start, None, False, False, limit):
            start = block[-1] + b"\0"
            last = is_last(block, limit, False)
            self._report(len(block))
            yield block
            if last:
                return

    def among(self, keys: Block) -> Block:
        return [key for key, value in zip(keys, self._shard.get_many(keys), strict=True) if value is not None]


class Gathered(Operand):
    """Keys in memory, each shard's in order."""

    def __init__(self, runs: Sequence[Block]) -> None:
        self._runs = runs

    def keys(self, number: int, block_items: int, report: Report) -> Keys:
        return _GatheredKeys(self._runs[number], report)


class _GatheredKeys(Keys):
    def __init__(self, run: Block, report: Report) -> None:
        self._run = run
        self._report = report

    def count(self) -> float:
        return len(self._run)

    def blocks(self) -> Blocks:
        if self._run:
            self._report(len(self._run))
            yield list(self._run)

    def among(self, keys: Block) -> Block:
        return list(set(self._run).intersection(keys))


class Foreign(Operand):
    """A store of another shape, in which the keys of ``mine`` are looked up."""

    def __init__(self, mine: Container, other: Container) -> None:
        self._mine = mine
        self._other = other

    def _is_shareable(self) -> bool:
        return self._other._is_shareable()

    def keys(self, number: int, block_items: int, report: Report) -> Keys:
        return _ForeignKeys(self._mine, self._other)


class _ForeignKeys(Keys):
    def __init__(self, mine: Container, other: Container) -> None:
        self._mine = mine
        self._other = other

    def count(self) -> float:
        return inf

    def blocks(self) -> Blocks:
        raise TypeError("a store of another shape has no order in common with this one")

    def among(self, keys: Block) -> Block:
        if same_codec(self._mine, self._other):
            return [key for key, value in self._other._store.get_many(keys).items() if value is not None]
        found = self._other.contains_many(list(map(self._mine._load_key, keys)))
        return [key for key, there in zip(keys, found, strict=True) if there]


def keys_of(
    operands: Sequence[Operand], number: int, report: Report, shards_at_once: int = 1, synced: bool = False
) -> list[Keys]:
    """Return what all operands have in shard ``number``.

    Blocks are smaller if many are in memory at once, and larger if what is written of each is ``synced``.
    """
    share = _ITEMS_IN_MEMORY // (len(operands) * shards_at_once)
    block_items = min(_BLOCK_ITEMS * (_SYNCED if synced else 1), max(_BLOCK_ITEMS_LEAST, share))
    return [operand.keys(number, block_items, report) for operand in operands]


def container_of(other: object) -> Any:
    """Return the container whose keys are the elements of ``other``, or None."""
    if isinstance(other, KeysView):
        other = getattr(other, "_mapping", None)
    return other if isinstance(other, Container) else None


def alike(mine: Container, other: object) -> bool:
    """Whether ``other`` is a store whose shards have the keys of ``mine``'s shards, in their order."""
    container = container_of(other)
    if container is None or not same_codec(mine, container):
        return False
    ours, theirs = mine._store.shards, container._store.shards
    return len(ours) == len(theirs) and all(shard.ordered for shard in (*ours, *theirs))


@contextmanager
def operands(mine: Container, others: Iterable[Iterable[Any]], whole: bool) -> Iterator[list[Operand]]:
    """Provide operands for ``others``. What they need is kept until the end of the ``with`` block.

    ``whole``: all that they have matters, and not only what they share with ``mine``.

    :raises SerializationError: it does, and ``mine`` cannot hold it.
    """
    with ExitStack() as stack:
        yield [_operand(mine, other, whole, stack) for other in others]


def _operand(mine: Container, other: Iterable[Any], whole: bool, stack: ExitStack) -> Operand:
    container = container_of(other)
    if container is None:
        if whole:
            return _gathered(mine, map(mine._dump_key, other), stack)
        return _gathered(mine, (key for key in map(mine._dump_known, other) if key is not None), stack)
    if alike(mine, other):
        return Stored(container)
    if not whole and (mine._codec.digest is None or same_codec(mine, container)):
        return Foreign(mine, container)
    check_keys(mine, container)
    if same_codec(mine, container):
        return _gathered(mine, (key for block in container._store.all_keys() for key in block), stack)
    return _gathered(mine, map(mine._dump_key, container._keys()), stack)


def _gathered(mine: Container, keys: Iterable[bytes], stack: ExitStack) -> Operand:
    held: list[set[bytes]] = [set() for _ in mine._store.shards]
    add_to = router([run.add for run in held])
    size = 0
    keys = iter(keys)
    for key in keys:
        add_to(key)(key)
        size += len(key) + _KEY_OVERHEAD
        if size >= _GATHERED_BYTES:
            return Stored(stack.enter_context(_spilled(mine, chain(chain.from_iterable(held), keys))))
    return Gathered([sorted(run) for run in held])


def _spilled(mine: Container, keys: Iterable[bytes]) -> Any:
    return mine._make_set(None, lambda made: made._store.put_all(items_in_blocks(keys), values=False))
