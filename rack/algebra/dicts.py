"""What two dicts have in common, and what they are together: merge joins of pairs, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from rack.algebra import operand
from rack.algebra.joins import aligned
from rack.container.rows import blame, chunks
from rack.container.same import same_serdes
from rack.errors import SerializationError
from rack.shard.base import Pair, Shard
from rack.shard.spans import ALL, blocks

_CHUNK = 4096


class Stretch(NamedTuple):
    """How two dicts differ in some part of the keys; pairs are bytes."""

    only_mine: list[Pair]
    only_theirs: list[Pair]
    different: list[tuple[Pair, Pair]]  # one key, two values: mine and theirs
    same: list[Pair]

    @property
    def is_equal(self) -> bool:
        return not (self.only_mine or self.only_theirs or self.different)


def alike(mine: Any, other: Any) -> bool:
    """Whether the two are dicts of one shape: as many shards, the same serializers."""
    return (
        getattr(mine, "_kind", None) == getattr(other, "_kind", None) == "dict"
        and operand.alike(mine, other)
        and same_serdes(mine, other)
    )


def same_value(mine: Any, one: Any, other: Any) -> bool:
    """Whether two values are equal: as objects, or as the dict ``mine`` stores them. (A NaN is not equal to itself.)

    The bytes of an object say also who refers to it (marshal) or what its parts share (pickle): so those are compared
    that are made of what was read.
    """
    if one is other or one == other:
        return True
    load, dump = mine._load_value, mine._dump_value
    try:
        return bool(dump(load(dump(one))) == dump(load(dump(other))))
    except SerializationError:  # the other one is none that this dict can hold
        return False


def compared(mine: Any, other: Any, number: int) -> Iterator[Stretch]:
    """Go through shard ``number`` of two dicts of one shape. Values are equal if their bytes or the objects are."""
    load = mine._load_value
    runs = [blocks(each._store.shards[number], ALL, values=True) for each in (mine, other)]
    for ours, theirs in aligned(runs, pairs=True):
        if ours == theirs:
            yield Stretch([], [], [], ours)
            continue
        held = dict(ours)
        there = dict(theirs)
        found = Stretch([], [pair for pair in theirs if pair[0] not in held], [], [])
        for pair in ours:
            key, value = pair
            other_value = there.get(key)
            if other_value is None:
                found.only_mine.append(pair)
            elif value == other_value or same_value(mine, load(value), load(other_value)):
                found.same.append(pair)
            else:
                found.different.append((pair, (key, other_value)))
        yield found


def stretches(mine: Any, other: Any) -> Iterator[Stretch]:
    """Go through all shards of two dicts of one shape."""
    for number in range(len(mine._store.shards)):
        yield from compared(mine, other, number)


# The set operations of items; a value that differs makes two different items.


def difference(stretch: Stretch) -> Iterable[Pair]:
    """Return what is only mine."""
    return [*stretch.only_mine, *(pair for pair, _ in stretch.different)]


def intersection(stretch: Stretch) -> Iterable[Pair]:
    """Return what is in both."""
    return stretch.same


def symmetric_difference(stretch: Stretch) -> Iterable[Pair]:
    """Return what is in exactly one of the two."""
    return [*stretch.only_mine, *stretch.only_theirs, *(pair for both in stretch.different for pair in both)]


# Dicts together


def update_shard(mine: Any, sources: Sequence[Any], number: int, report: Callable[[int], object]) -> None:
    """Put all pairs of the sources' shards into mine's; a later source wins."""
    shard: Shard = mine._store.shards[number]
    runs = [blocks(source._store.shards[number], ALL, values=True) for source in sources]
    for first, *others in aligned(runs, pairs=True):
        pairs: list[Pair] = first
        for other in others:
            if not pairs:
                pairs = other
            elif other:
                pairs = sorted((dict(pairs) | dict(other)).items())
        shard.put_many(pairs)
        report(len(pairs))


def merge(mine: Any, pairs: Iterable[Pair], resolve: Callable[[Any, Any, Any], Any]) -> None:
    """Add the pairs; where there is a value already, ``resolve(key, mine, theirs)`` is the new one."""
    mine._open_store()
    taken = 0
    for chunk in chunks(pairs, _CHUNK):
        left: dict[bytes, bytes] = {}
        for key, theirs in chunk:
            if key in left:  # once more: it meets what the first one has made
                _merge_distinct(mine, left, resolve, taken)
                taken += len(left)
                left = {}
            left[key] = theirs
        _merge_distinct(mine, left, resolve, taken)
        taken += len(left)


def _merge_distinct(mine: Any, pairs: dict[bytes, bytes], resolve: Callable[[Any, Any, Any], Any], taken: int) -> None:
    """Merge pairs that come after ``taken`` others. Where ``resolve`` raises, those before it are merged."""
    store = mine._store
    load_key, load, dump = mine._load_key, mine._load_value, mine._dump_value
    present = store.get_many(pairs)
    resolved: dict[bytes, bytes] = {}
    failure = None
    for at, (key, data) in enumerate(present.items()):
        if data is None:
            continue
        try:
            resolved[key] = dump(resolve(load_key(key), load(data), load(pairs[key])))
        except Exception as error:
            blame(error, taken + at + 1, load_key(key))
            failure = error
            pairs = dict(islice(pairs.items(), at))
            break
    absent = {key: theirs for key, theirs in pairs.items() if present[key] is None}
    new = set(chain.from_iterable(store.add_new(absent, absent.__getitem__)))
    for key, theirs in pairs.items():
        if key in new:
            continue
        shard = store.route(key)
        data = present[key]
        value = resolved.get(key)
        while True:
            if data is None:  # it went, or came, since we looked
                data = shard.add(key, theirs)
                if data is None:
                    break
            if value is None:
                value = dump(resolve(load_key(key), load(data), load(theirs)))
            if value == data or swap(shard, key, data, value):
                break
            data, value = shard.get(key), None
    if failure is not None:
        raise failure


def swap(shard: Shard, key: bytes, old: bytes, new: bytes) -> bool:
    """Replace the value if it still is ``old``."""
    swapped = False

    def change(data: bytes | None) -> bytes | None:
        nonlocal swapped
        swapped = data == old
        return new if swapped else None

    shard.modify(key, change)
    return swapped
