"""Reads what can be read of an SQLite shard that SQLite cannot read, with the committed transactions in its log.

First the table is walked from its root, as far as its pages are right. Then every other page is looked at: leaves whose
place in the tree is lost. If the list of free pages is whole, what is neither free nor in its place has lost its place;
else it may be old: its entries may have been changed or deleted since.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import accumulate

from rack.shard.base import IN_PLACE, IN_USE, STRAY, Pair, Salvaged, ShardSpec
from rack.shard.problem import Problem
from rack.shard.sqlite3.pages import LEAF, Cell, Database, PageError

_USUAL_ROOTS = {"entries": 2, "rack": 3}  # in the order in which they were made
_MAX_DEPTH = 20


def salvage(spec: ShardSpec) -> Salvaged:
    """Yield what can be read of a shard's files, which nobody has open."""
    try:
        fd = os.open(spec.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Problem("missing", "is missing")
        return
    try:
        try:
            wal = os.open(spec.path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            wal = None
        try:
            yield from _Salvage(Database(fd, wal)).run()
        finally:
            if wal is not None:
                os.close(wal)
    finally:
        os.close(fd)


def _known(before: bytes | None, bound: bytes | None) -> bytes | None:
    """Return the bound, or the one before it where it is not known."""
    return before if bound is None else bound


class _Salvage:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._marks = bytearray(database.count + 1)  # a page that is in its place is marked
        self._marks[:2] = b"\1\1"
        self._broken: list[int] = []
        self._counted: int | None = None

    def run(self) -> Salvaged:
        database = self._database
        for problem in database.problems:
            yield Problem("structure", problem)
        if database.claimed > database.count:
            yield Problem(
                "structure", f"the file is truncated: it has {database.count} pages and needs {database.claimed}"
            )
        try:
            roots = database.roots()
            if not roots.keys() >= _USUAL_ROOTS.keys():
                raise PageError("has not the tables of a shard in its schema")
        except PageError as error:
            yield Problem("structure", f"page 1 {error}")
            roots = _USUAL_ROOTS
        for _ in self._tree(roots["rack"], self._own):
            pass  # without it, only the number of entries is not known
        if self._counted is None:
            yield Problem("count", "does not tell how many entries it has")
        else:
            yield self._counted
        self._broken.clear()
        for item in self._tree(roots["entries"], self._entry):
            yield item if isinstance(item, Problem) else (IN_PLACE, item)
        sure = IN_USE if database.header_is_right else STRAY
        try:
            for number in database.free_pages():
                self._mark(number)
        except PageError as error:
            yield Problem("structure", f"the list of free pages is damaged: it has a page that {error}")
            sure = STRAY
        unplaced = self._unplaced()
        yield from self._strays(unplaced, sure)
        yield from self._strays(self._broken, STRAY)

    def _tree(self, root: int, take: Callable[[Cell], Pair | None]) -> Iterator[Problem | list[Pair]]:
        """Walk a tree: yield what is wrong, and its records as ``take`` returns them."""
        # Page, depth, the keys before and behind all of its own.
        stack: list[tuple[int, int, bytes | None, bytes | None]] = [(root, 1, None, None)]
        while stack:
            number, depth, low, high = stack.pop()
            try:
                self._mark(number)
                page = self._database.page(number)
                cells, last = self._database.cells(page)
                if depth > _MAX_DEPTH:
                    raise PageError("is deeper than a tree can be")
            except PageError as error:
                self._broken.append(number)
                yield Problem("structure", f"page {number} {error}")
                continue
            problems, pairs = [], []
            before = low
            bounds: list[bytes | None] = []  # the key of each record, None where that is not known
            wrong = ""
            for cell in cells:
                try:
                    pair = take(cell)
                    for overflow in self._database.overflow(cell):
                        self._mark(overflow)
                except PageError as error:
                    problems.append(Problem("structure", f"page {number} {error}"))
                    bounds.append(None)
                    continue
                bounds.append(None if pair is None else pair[0])
                if pair is not None:
                    if (before is not None and pair[0] <= before) or (high is not None and pair[0] >= high):
                        wrong = f"has keys out of order at {pair[0][:60]!r}"
                    before = pair[0]
                    pairs.append(pair)
            if wrong:
                self._broken.append(number)
                yield Problem("order", f"page {number} {wrong}")
                continue
            yield from problems
            if pairs:
                yield pairs
            if page[0] != LEAF:
                children = [*(cell.child for cell in cells), last]
                lows = accumulate([low, *bounds], _known)
                highs = reversed(list(accumulate([high, *reversed(bounds)], _known)))
                below = zip(children, [depth + 1] * len(children), lows, highs, strict=True)
                stack += reversed(list(below))

    def _own(self, cell: Cell) -> None:
        record = self._database.record(cell)
        if record[:1] == ["count"] and isinstance(record[-1], int):
            self._counted = record[-1]

    def _entry(self, cell: Cell) -> Pair:
        columns = self._database.record(cell)
        if len(columns) == 2:
            key, value = columns
            if isinstance(key, bytes) and isinstance(value, bytes):
                return key, value
        raise PageError("has a record that is no entry")

    def _mark(self, number: int) -> None:
        if not 1 < number < len(self._marks):
            raise PageError("does not exist")
        if self._marks[number]:
            raise PageError("is in two places")
        self._marks[number] = 1

    def _unplaced(self) -> Iterator[int]:
        at = self._marks.find(0)
        while at >= 0:
            yield at
            at = self._marks.find(0, at + 1)

    def _strays(self, numbers: Iterator[int] | list[int], sure: int) -> Salvaged:
        for number in numbers:
            try:
                page = self._database.page(number)
                cells = self._database.cells(page)[0] if sure == IN_USE else self._database.any_cells(page)
            except PageError:
                continue
            pairs = []
            for cell in cells:
                try:
                    pairs.append(self._entry(cell))
                except PageError as error:
                    if sure == IN_USE:
                        yield Problem("structure", f"page {number}, whose place in the tree is lost, {error}")
            if pairs:
                yield sure, pairs
