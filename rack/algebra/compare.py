"""How two stores differ, in numbers: by merge join, shard by shard, or by lookup if their shapes differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rack.algebra import dicts, operand
from rack.algebra.joins import aligned
from rack.algebra.operand import Stored, keys_of
from rack.algebra.sets import each_shard
from rack.container.rows import chunks
from rack.container.same import check_keys

Report = Callable[[int], object]

_CHUNK = 4096


@dataclass
class Counts:
    """Of keys. ``different``: of those in both, how many have values that differ."""

    only_mine: int = 0
    only_theirs: int = 0
    both: int = 0
    different: int = 0

    @property
    def equal(self) -> bool:
        return not (self.only_mine or self.only_theirs or self.different)

    def add(self, other: Counts) -> None:
        self.only_mine += other.only_mine
        self.only_theirs += other.only_theirs
        self.both += other.both
        self.different += other.different


def compare(mine: Any, other: Any, workers: int = 1, progress: Callable[[int], object] | None = None) -> Counts:
    """Compare two open sets, or two open dicts. ``workers`` processes share the shards of stores of one shape.

    ``progress`` is told how many entries of both were looked at.
    """
    is_dict = mine._kind == "dict"
    counts = Counts()
    if dicts.alike(mine, other) if is_dict else operand.alike(mine, other):
        function = _compare_pairs if is_dict else _compare_keys
        for part in each_shard(function, (mine, other), mine, workers, progress):
            counts.add(part)
        return counts
    if mine._codec.digest is not None:
        if other._codec.digest is None:  # whose keys can be looked up here, and not ours there
            turned = compare(other, mine, workers, progress)
            return Counts(turned.only_theirs, turned.only_mine, turned.both, turned.different)
        check_keys(mine, other)
    for chunk in chunks(mine.items() if is_dict else mine, _CHUNK):
        if is_dict:
            found = other.get_many(key for key, _ in chunk)
            counts.both += len(found)
            counts.different += sum(
                key in found and not dicts.same_value(mine, found[key], value) for key, value in chunk
            )
            counts.only_mine += len(chunk) - len(found)
        else:
            there = sum(other.contains_many(chunk))
            counts.both += there
            counts.only_mine += len(chunk) - there
        if progress is not None:
            progress(len(chunk))
    # What was not met in the other is only there; exact, unless somebody writes meanwhile.
    counts.only_theirs = max(len(other) - counts.both, 0)
    return counts


def _compare_keys(mine: Any, other: Any, number: int, report: Report) -> Counts:
    counts = Counts()
    one, two = keys_of([Stored(mine), Stored(other)], number, report)
    for ours, theirs in aligned([one.blocks(), two.blocks()]):
        both = len(set(ours).intersection(theirs))
        counts.add(Counts(len(ours) - both, len(theirs) - both, both))
    return counts


def _compare_pairs(mine: Any, other: Any, number: int, report: Report) -> Counts:
    counts = Counts()
    for stretch in dicts.compared(mine, other, number):
        only_mine, only_theirs, different, same = [len(part) for part in stretch]
        counts.add(Counts(only_mine, only_theirs, different + same, different))
        report(only_mine + only_theirs + 2 * (different + same))
    return counts
