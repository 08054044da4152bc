"""Taking in what an iterable has, a block at a time: so that most of what is done to a row is done in C."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

from rack.shard.base import Pair

T = TypeVar("T")
Item = TypeVar("Item", bytes, Pair)

_MOST = 256
_BYTES = 64 << 10
_SAMPLED = 8  # one of so many rows


class Pace:
    """How many rows are to be taken at a time: few if they are large, as those before them tell."""

    def __init__(self) -> None:
        self.rows = 1

    def tell(self, items: list[Any]) -> None:
        """Note as what items the last rows are stored."""
        sample = items[::_SAMPLED]
        self.rows = max(1, min(2 * self.rows, _MOST, len(sample) * _BYTES // (size_of(sample) + 1)))


def in_blocks(rows: Iterable[T], pace: Pace) -> Iterator[list[T]]:
    """Yield the rows in lists; what they raise is raised once those before it have been handed out."""
    iterator = iter(rows)
    failure = None
    while failure is None:
        block: list[T] = []
        try:
            block.extend(islice(iterator, pace.rows))  # which keeps what came before an error
        except Exception as error:
            failure = error
        if block:
            yield block
        elif failure is None:
            return
    try:
        raise failure
    finally:
        del failure  # whose traceback has this frame


def items_in_blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield pairs, or keys, in lists of a moderate size; what they raise is raised as by :func:`in_blocks`."""
    pace = Pace()
    for block in in_blocks(items, pace):
        pace.tell(block)
        yield block


def size_of(items: list[Any]) -> int:
    """Return how many bytes pairs have, or keys."""
    if not items:
        return 0
    return sum(map(len, chain.from_iterable(items) if type(items[0]) is tuple else items))
