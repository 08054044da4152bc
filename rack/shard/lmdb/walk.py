"""Verifies the structure of an LMDB data file without LMDB, which may crash on a damaged one.

What passes is safe to open with LMDB: every page up to the last is in exactly one place (a tree, or the list of free
pages), every page is whole and holds what its parent says, and every count is right.

The file must be at rest, or the snapshot that is walked must be held by a reader (see :func:`walk`).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import gt, lt
from typing import Any

from rack.shard.base import Pair
from rack.shard.lmdb import pages
from rack.shard.lmdb.pages import Meta, Nodes, PageError, Tree

LONG_TABLE = b"\x01"
MAX_KEY = 511
_BLOCK_BYTES = 1 << 20
_INTEGER_KEYS = 0x08
_NO_SUBDIR = 0x4000  # a flag of the environment, which LMDB records there as well

Leaf = Callable[[bytes, Nodes, list[int]], Iterator[str | list[Pair]]]


def findings(path: str) -> Iterator[str]:
    """Yield what is wrong with the structure of the LMDB data file at ``path``, which nobody may write to meanwhile.

    Reads the file once, in about constant memory: a byte a page. Changes nothing.

    :raises OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            metas = pages.read_metas(fd)
        except PageError as error:
            yield str(error)
            return
        yield from check_metas(metas)
        for found in walk(fd, pages.newest(metas), values=False):
            if isinstance(found, str):
                yield found
    finally:
        os.close(fd)


def check_metas(metas: tuple[Meta, Meta]) -> Iterator[str]:
    """Yield what is wrong with the meta pages beside what is in their trees."""
    first, second = (meta.number for meta in metas)
    if first & 1 or ((first, second) != (0, 0) and (not second & 1 or abs(first - second) != 1)):
        yield f"the meta pages are of transactions {first} and {second}, which do not follow one another"


def walk(fd: int, meta: Meta, values: bool) -> Iterator[str | list[Pair]]:
    """Walk the state of the file that a meta page describes: yield what is wrong, and the records of every leaf.

    First come the main database's records in order, then those of the table of long keys, whose LMDB keys are told
    apart from the others' by an empty block between them. Without ``values`` no records are yielded.

    No page of the state may be used again while it is walked: the file is at rest, or a reader holds the state.
    """
    walker = Walker(fd, meta, values)
    if walker.missing:
        yield walker.missing
    else:
        yield from walker.run()


class Walker:
    """Walks a state of a file. A page that cannot be right is left out, with all that is below it."""

    def __init__(self, fd: int, meta: Meta, values: bool) -> None:
        self._fd = fd
        self._meta = meta
        self._values = values
        self._size = meta.page_size
        used, held = meta.last_page + 1, os.fstat(fd).st_size // self._size
        #: Not empty if the file has not all the pages that it should have: then this says so.
        self.missing = ""
        if not pages.METAS <= used <= held:
            self.missing = f"the file is truncated: it has {held} pages and uses {used}"
        #: For each page whether it has been found in its place, in a tree or in the list of free pages.
        self.marks = bytearray(min(used, held))
        self.marks[: pages.METAS] = b"\1" * pages.METAS
        #: Pages that are in their place and not right.
        self.broken: list[int] = []
        #: Whether it is known which pages are free.
        self.free_is_known = False
        #: The tree of long keys, once its record has been found.
        self.long: Tree | None = None
        self._whole = True  # whether every tree could be walked

    def run(self) -> Iterator[str | list[Pair]]:
        if self._meta.free.flags & ~_NO_SUBDIR != _INTEGER_KEYS:
            yield f"the tree of free pages has flags {self._meta.free.flags:#x}"
        yield from self._tree("the tree of free pages", self._meta.free, self._free_leaf)
        self.free_is_known = self._whole
        yield from self._tree("the main tree", self._meta.main, self._main_leaf)
        if self.long is not None:
            if self._values:
                yield []
            yield from self._tree("the tree of long keys", self.long, self._leaf)
        if self._whole and (lost := self.marks.count(0)):
            yield f"{lost} pages are neither used nor free; the first is page {self.marks.find(0)}"

    def _tree(self, name: str, tree: Tree, leaf: Leaf) -> Iterator[str | list[Pair]]:
        free = tree is self._meta.free
        counts = (tree.branches, tree.leaves, tree.overflows, tree.entries)
        if not free and (tree.flags or tree.pad):
            yield f"{name} has flags {tree.flags:#x} and a padding of {tree.pad}"
        if tree.root == pages.NO_PAGE:
            if any(counts) or tree.depth:
                yield f"{name} has no root, and counts {counts}"
            return
        found = [0, 0, 0, 0]  # as counts
        sound = True
        # Page, depth, the least that a key may be, and what all keys are less than.
        stack: list[tuple[int, int, Any, Any]] = [(tree.root, 1, None, None)]
        while stack:
            number, depth, low, high = stack.pop()
            try:
                self._mark(number, 1)
                page = pages.read_page(self._fd, number, self._size)
                kind = pages.page_kind(page, number)
                if depth > pages.MAX_DEPTH or (kind == pages.LEAF) != (depth == tree.depth):
                    raise PageError(f"is at a depth of {depth}; the tree has one of {tree.depth}")
                if kind == pages.LEAF:
                    found[1] += 1
                    nodes = pages.leaf_nodes(page)
                    found[3] += len(nodes.keys)
                    _check_order(pages.integers(nodes.keys) if free else nodes.keys, low, high, strict=False)
                    for item in leaf(page, nodes, found):
                        if isinstance(item, str):
                            sound = False
                            item = f"page {number}, in {name}, {item}"
                        yield item
                else:
                    found[0] += 1
                    keys, children = pages.branch_nodes(page)
                    if len(children) < 2 and not free:  # at which LMDB would abort the process
                        raise PageError("is a branch with one child")
                    bounds = pages.integers(keys[1:]) if free else keys[1:]
                    _check_order(bounds, low, high, strict=True)
                    bounds = [low, *bounds, high]
                    below = zip(children, [depth + 1] * len(children), bounds, bounds[1:], strict=False)
                    stack += reversed(list(below))
            except PageError as error:
                sound = False
                self.broken.append(number)
                yield f"page {number}, in {name}, {error}"
        if not sound:
            self._whole = False  # what counts and free pages should be is not known
        elif tuple(found) != counts:
            yield f"{name} has (branches, leaves, overflow pages, entries) {tuple(found)}, and counts {counts}"

    def _mark(self, number: int, count: int) -> None:
        """Note that pages have been found in their place."""
        end = number + count
        if number < pages.METAS or end > len(self.marks):
            raise PageError("does not exist" if count == 1 else f"and the next {count} do not all exist")
        if self.marks.find(1, number, end) >= 0:
            raise PageError("is in two places")
        self.marks[number:end] = b"\1" * count

    def _leaf(self, page: bytes, nodes: Nodes, found: list[int]) -> Iterator[str | list[Pair]]:
        """Check the nodes of a leaf. Yields their records, in blocks of a bounded size."""
        flags = set(nodes.flags)
        if not flags <= {0, pages.BIG}:
            raise PageError(f"has a node with flags {max(flags):#x}")
        if not nodes.keys[0] or len(max(nodes.keys, key=len)) > MAX_KEY:  # the empty key would be the first
            raise PageError(f"has a key that is empty or has over {MAX_KEY} bytes")
        if flags == {0}:
            if self._values:
                yield [
                    (key, page[at : at + size])
                    for key, at, size in zip(nodes.keys, nodes.values_at, nodes.sizes, strict=True)
                ]
            return
        block = []
        held = 0
        for key, flag, size, at in zip(nodes.keys, nodes.flags, nodes.sizes, nodes.values_at, strict=True):
            try:
                value = self.big(page, at, size, found, self._values) if flag else page[at : at + size]
            except PageError as error:
                yield str(error)
                continue
            if not self._values:
                continue
            block.append((key, value))
            held += size
            if held >= _BLOCK_BYTES:
                yield block
                block, held = [], 0
        if block:
            yield block

    def _main_leaf(self, page: bytes, nodes: Nodes, found: list[int]) -> Iterator[str | list[Pair]]:
        if pages.TABLE in nodes.flags:
            at = nodes.flags.index(pages.TABLE)
            if nodes.keys[at] != LONG_TABLE or nodes.sizes[at] != pages.TREE_SIZE or self.long is not None:
                raise PageError(f"has a table of the name {nodes.keys[at][:60]!r}, which is none of Rack's")
            start = nodes.values_at[at]
            self.long = Tree.parse(page[start : start + pages.TREE_SIZE])
            nodes = nodes.without(at)
        if nodes.keys:
            yield from self._leaf(page, nodes, found)

    def _free_leaf(self, page: bytes, nodes: Nodes, found: list[int]) -> Iterator[str]:
        for key, flag, size, at in zip(nodes.keys, nodes.flags, nodes.sizes, nodes.values_at, strict=True):
            try:
                if flag not in (0, pages.BIG):
                    raise PageError(f"has a node with flags {flag:#x}")
                self._take_free(self.big(page, at, size, found, True) if flag else page[at : at + size])
                if not 1 <= pages.integers([key])[0] <= self._meta.number:
                    raise PageError("has a list of a transaction that has not been")
            except PageError as error:
                yield str(error)

    def _take_free(self, content: bytes) -> None:
        """Take in a list of free pages: how many, then their numbers in descending order."""
        if not content or len(content) % 8:
            raise PageError(f"has a list of free pages of {len(content)} bytes")
        free = array("Q", content)
        count = free.pop(0)
        if count > len(free):
            raise PageError(f"has a list of {len(free)} free pages, and counts {count}")
        del free[count:]
        if self.missing:  # the file ends before what it should have
            free = array("Q", [number for number in free if not len(self.marks) <= number <= self._meta.last_page])
        if not all(map(gt, free, islice(free, 1, None))):
            raise PageError("has a list of free pages that is out of order")
        try:
            for number in free:
                self._mark(number, 1)
        except PageError as error:
            raise PageError(f"has free page {number} in its list, which {error}") from None

    def big(self, page: bytes, at: int, size: int, found: list[int], read: bool) -> bytes:
        """Check a value that is in overflow pages, and count those."""
        first = pages.page_number(page, at)
        try:
            count = pages.overflow_pages(self._fd, first, self._size, size)
            self._mark(first, count)
            found[2] += count
            return pages.read_overflow(self._fd, first, self._size, size) if read else b""
        except PageError as error:
            raise PageError(f"has a value in page {first}, which {error}") from None


def _check_order(keys: Sequence[Any], low: Any, high: Any, strict: bool) -> None:
    """Raise PageError unless the keys ascend, from ``low`` (``strict``: behind it) to below ``high``."""
    if not all(map(lt, keys, islice(keys, 1, None))):
        raise PageError("has keys out of order")
    if keys and low is not None and (keys[0] < low or (strict and keys[0] == low)):
        raise PageError("has keys that are less than its parent says")
    if keys and high is not None and not keys[-1] < high:
        raise PageError("has keys that are greater than its parent says")
