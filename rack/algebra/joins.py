"""Merge joins of sorted keys, a block at a time: what set algebra on disk comes down to.

Two shards that hold the same part of the keys, in order of their bytes, are read side by side. ``aligned`` cuts what
was read at common bounds, so that each stretch of the keys is in memory from all sides, and nothing else is; within a
stretch the work is done by the built-in set, filter and sort, which know nothing of each other's order but are fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, filterfalse
from operator import itemgetter
from typing import Any

Block = list[bytes]
Blocks = Iterator[Block]

# Another operand that has this many times the leading one's keys is not read through: the leading ones are looked up
# in it. A lookup costs about ten times what a key costs that is read in order.
_LOOKUP = 10
_KEY = itemgetter(0)


class Run(ABC):
    """Keys that can be read in order."""

    @abstractmethod
    def count(self) -> float:
        """Return about how many there are."""

    @abstractmethod
    def blocks(self) -> Blocks:
        """Yield all keys in order, in blocks; a block is the receiver's own."""


class Keys(Run):
    """The part of an operand's keys that belongs to one shard. If the count is infinite they are only looked up."""

    @abstractmethod
    def among(self, keys: Block) -> Block:
        """Return those of ``keys`` that are there, by lookup."""


def aligned(
    runs: Sequence[Iterator[list[Any]]], until: Collection[int] = (), pairs: bool = False
) -> Iterator[list[list[Any]]]:
    """Cut runs of sorted keys (or pairs) at common bounds: yield, for each stretch of keys, what each run has there.

    It ends when one of the runs in ``until`` ends, or all have.
    """
    key_of = _KEY if pairs else None
    pending: list[list[Any]] = [[] for _ in runs]
    going = list(range(len(runs)))
    while True:
        for number in list(going):
            if not pending[number]:
                pending[number] = next(runs[number], [])
                if not pending[number]:
                    if number in until:
                        return
                    going.remove(number)
        if not going:
            return
        if len(going) == 1:
            row, pending = pending, [[] for _ in runs]
        else:
            bound = min([pending[number][-1][0] if pairs else pending[number][-1] for number in going])
            row = []
            for number, run in enumerate(pending):
                cut = bisect_right(run, bound, key=key_of)
                row.append(run[:cut])
                pending[number] = run[cut:]
        yield row


def union(operands: Sequence[Run]) -> Blocks:
    """Yield what is in any operand."""
    if len(operands) == 1:
        yield from operands[0].blocks()
        return
    for first, *others in aligned([operand.blocks() for operand in operands]):
        keys: Block = first
        for other in others:
            if not keys:
                keys = other
            elif other:
                keys += filterfalse(set(keys).__contains__, other)
                keys.sort()
        yield keys


def intersection(operands: Sequence[Keys]) -> Blocks:
    """Yield what is in all operands."""
    leading, *others = sorted(operands, key=lambda operand: operand.count())
    for keys, theirs in beside(leading, others, all_needed=True):
        common = _common(keys, theirs)
        if common:
            yield common


def difference(operands: Sequence[Keys]) -> Blocks:
    """Yield what is in the first operand and in none of the others."""
    leading, *others = operands
    yield from missing(leading, others)


def missing(leading: Run, others: Sequence[Keys]) -> Blocks:
    """Yield what is in ``leading`` and in none of the others."""
    for keys, theirs in beside(leading, others):
        rest: Iterable[bytes] = keys
        for other in theirs:
            rest = filterfalse(other.__contains__, rest)
        if found := list(rest):
            yield found


def outside(leading: Run, others: Sequence[Keys]) -> Blocks:
    """Yield what is in ``leading`` and not in all others."""
    for keys, theirs in beside(leading, others):
        if found := list(filterfalse(set(_common(keys, theirs)).__contains__, keys)):
            yield found


def symmetric_difference(operands: Sequence[Keys]) -> Blocks:
    """Yield what is in exactly one of two operands."""
    one, other = operands
    for ours, theirs in aligned([one.blocks(), other.blocks()]):
        if not theirs or not ours:
            yield ours or theirs
            continue
        keys = list(filterfalse(set(theirs).__contains__, ours))
        keys += filterfalse(set(ours).__contains__, theirs)
        keys.sort()
        if keys:
            yield keys


def beside(
    leading: Run, others: Sequence[Keys], all_needed: bool = False
) -> Iterator[tuple[Block, list[Collection[bytes]]]]:
    """Yield the leading keys in blocks, and for each other operand a collection that tells which of them it has.

    With ``all_needed`` it ends where one of the others does.
    """
    many = leading.count() * _LOOKUP
    looked_up = [other for other in others if other.count() > many]
    read = [other for other in others if other.count() <= many]
    runs = [operand.blocks() for operand in (leading, *read)]
    for keys, *rows in aligned(runs, range(len(runs)) if all_needed else (0,)):
        if keys:
            yield keys, [*(set(row) for row in rows), *(set(other.among(keys)) for other in looked_up)]


def _common(keys: Block, theirs: list[Collection[bytes]]) -> Block:
    common: Iterable[bytes] = keys
    for other in theirs:
        common = filter(other.__contains__, common)
    return list(common)


def in_order(parts: Sequence[Blocks]) -> Blocks:
    """Yield the keys of parts that have none in common, all in order."""
    for row in aligned(parts):
        yield sorted(chain.from_iterable(row))


class Joined(Run):
    """What is in any of several operands, as one."""

    def __init__(self, operands: Sequence[Run]) -> None:
        self._operands = operands

    def count(self) -> float:
        return sum(operand.count() for operand in self._operands)

    def blocks(self) -> Blocks:
        return union(self._operands)
