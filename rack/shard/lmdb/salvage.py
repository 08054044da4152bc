"""Reads what can be read of an LMDB shard that LMDB cannot, or must not, open.

First the trees are walked from the newest meta page, as far as their pages are right. Then every other page of the
file is looked at: leaves whose place in the tree is lost. LMDB never writes a page in its place, so a file is full of
old ones. But if the list of free pages is whole, a page that is neither free nor in its place has lost its place, and
what it holds is in the shard. Else it may be old: its entries may have been changed or deleted since.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from itertools import chain

from rack.shard.base import IN_PLACE, IN_USE, STRAY, Pair, Salvaged, ShardSpec
from rack.shard.lmdb import pages
from rack.shard.lmdb.examine import Records
from rack.shard.lmdb.pages import Meta, PageError, Tree
from rack.shard.lmdb.walk import LONG_TABLE, MAX_KEY, Walker
from rack.shard.problem import Problem

_NOWHERE = Tree(0, 0, 0, 0, 0, 0, 0, pages.NO_PAGE)


def salvage(spec: ShardSpec) -> Salvaged:
    """Yield what can be read of a shard's file, which nobody has open."""
    try:
        fd = os.open(spec.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Problem("missing", "is missing")
        return
    try:
        yield from _Salvage(fd, spec).run()
    finally:
        os.close(fd)


class _Salvage:
    def __init__(self, fd: int, spec: ShardSpec) -> None:
        self._fd = fd
        self._spec = spec
        self._long: Tree | None = None
        self._metas, self._damage = _metas(fd)
        held = os.fstat(fd).st_size
        if self._metas:
            self._meta = max(self._metas, key=lambda meta: meta.number)
        else:
            size = _guess_page_size(fd)
            self._meta = Meta(_NOWHERE._replace(pad=size), _NOWHERE, held // size - 1, 0)
        self._size = self._meta.page_size
        self._held = held // self._size

    def run(self) -> Salvaged:
        for damage in self._damage:
            yield Problem("structure", damage)
        if not self._held:
            return
        walker = Walker(self._fd, self._meta, values=True)
        if walker.missing:
            yield Problem("structure", walker.missing)
        records = Records(self._spec)
        if self._metas:
            for found in walker.run():
                if isinstance(found, str):
                    yield Problem("structure", found)
                    continue
                for item in records.take(found):
                    yield item if isinstance(item, Problem) else (IN_PLACE, item)
            self._long = walker.long
        if self._metas and walker.free_is_known:
            yield from self._strays(self._unplaced(walker), walker, IN_USE)
            yield from self._strays(walker.broken, walker, STRAY)
        else:
            yield from self._strays(chain(self._unplaced(walker), walker.broken), walker, STRAY)
        # Without the record of the table of long keys it is not known how many there should be.
        if self._metas and (self._long is not None or self._spec.layout == "small"):
            yield max(0, self._meta.main.entries - records.own) + (self._long.entries if self._long else 0)

    def _unplaced(self, walker: Walker) -> Iterator[int]:
        at = walker.marks.find(0)
        while at >= 0:
            yield at
            at = walker.marks.find(0, at + 1)

    def _strays(self, numbers: Iterator[int] | list[int], walker: Walker, sure: int) -> Salvaged:
        for number in numbers:
            try:
                page = pages.read_page(self._fd, number, self._size)
                if pages.page_kind(page, number) != pages.LEAF:
                    continue
                nodes = pages.leaf_nodes(page) if sure == IN_USE else pages.any_nodes(page)
            except PageError:
                continue
            pairs = []
            for key, flag, size, at in zip(nodes.keys, nodes.flags, nodes.sizes, nodes.values_at, strict=True):
                if flag == pages.TABLE and key == LONG_TABLE and sure == IN_USE and size == pages.TREE_SIZE:
                    self._long = Tree.parse(page[at : at + size])
                if not 0 < len(key) <= MAX_KEY or flag not in (0, pages.BIG):
                    continue
                try:
                    if flag == 0:
                        pairs.append((key, page[at : at + size]))
                    elif sure == IN_USE:
                        pairs.append((key, walker.big(page, at, size, [0, 0, 0], True)))
                    else:
                        first = pages.page_number(page, at)
                        pages.overflow_pages(self._fd, first, self._size, size)
                        pairs.append((key, pages.read_overflow(self._fd, first, self._size, size)))
                except PageError as error:
                    if sure == IN_USE:
                        yield Problem("structure", f"page {number}, whose place in the tree is lost, {error}")
            if pairs and not _lists_of_free_pages(pairs):
                yield from self._entries(pairs, sure)

    def _entries(self, pairs: list[Pair], sure: int) -> Salvaged:
        records = Records(self._spec)
        long = Records(self._spec)
        for _ in long.take([]):
            pass
        in_long = [item for pair in pairs for item in long.take([pair])]
        if all(isinstance(item, list) for item in in_long):
            found: Iterator[Problem | list[Pair]] = iter(in_long)
        else:
            found = records.take(pairs)
        for item in found:
            if not isinstance(item, Problem):
                yield sure, item
            elif sure == IN_USE:
                yield item


def _metas(fd: int) -> tuple[list[Meta], list[str]]:
    """Return the meta pages that can be read, and what is wrong with the others."""
    metas, damage = [], []
    try:
        metas.append(pages.read_meta(fd, 0, 0))
        sizes = [metas[0].page_size]
    except PageError as error:
        damage.append(str(error))
        sizes = [_guess_page_size(fd)]
    for size in sizes:
        try:
            second = pages.read_meta(fd, 1, size)
            if second.page_size == size:
                metas.append(second)
            else:
                damage.append(f"meta page 1 says that pages have {second.page_size} bytes")
        except PageError as error:
            damage.append(str(error))
    if len(metas) == 1:
        damage.append("a meta page is lost: if it was the newer one, the last transaction is lost too")
    return metas, damage


def _guess_page_size(fd: int) -> int:
    """Return the size of pages with which the most pages of the file's beginning carry their own numbers."""
    start = os.pread(fd, 1 << 22, 0)

    def right(size: int) -> int:
        numbers = range(1, len(start) // size)
        return sum(pages.page_number(start, number * size) == number for number in numbers)

    return max((1 << bits for bits in range(9, 16)), key=right)


def _lists_of_free_pages(pairs: list[Pair]) -> bool:
    """Return whether this is a leaf of the tree of free pages."""
    for key, value in pairs:
        if len(key) != 8 or not value or len(value) % 8 or array("Q", value[:8])[0] > len(value) // 8 - 1:
            return False
    return True
