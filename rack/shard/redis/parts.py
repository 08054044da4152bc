"""Cutting what is for many keys into commands, and putting together what they answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rack.shard.base import Pair

ITEMS = 2000  # of a command that has many, which a server does as a whole
_BYTES = 1 << 20


def parts(items: Sequence[Any], most: int = ITEMS) -> Iterator[Sequence[Any]]:
    """Cut keys, or pairs, into what one command may have."""
    if len(items) <= most and size_of(items) <= _BYTES:
        if items:
            yield items
        return
    at = 0
    while at < len(items):
        end, size = at, 0
        while end < len(items) and end - at < most and (size < _BYTES or end == at):
            size += size_of(items[end : end + 1])
            end += 1
        yield items[at:end]
        at = end


def size_of(items: Sequence[Any]) -> int:
    if items and isinstance(items[0], tuple):
        return sum(len(key) + len(value) for key, value in items)
    return sum(map(len, items))


def flat(pairs: Sequence[Pair]) -> list[bytes]:
    return [part for pair in pairs for part in pair]


def joined(answers: list[list[bytes | None]]) -> list[bytes | None]:
    return answers[0] if len(answers) == 1 else [value for answer in answers for value in answer]


def flags(answers: list[bytes]) -> list[bool]:
    return [flag == 49 for answer in answers for flag in answer]  # "1"


def only(answers: list[Any]) -> Any:
    return answers[0]


def nothing(answers: list[Any]) -> None:
    """Nothing comes of them."""
