"""The pages of an LMDB data file, read without LMDB: which crashes on a damaged one, and reads none that has no root.

The format is LMDB 0.9's with 8-byte page numbers, in the machine's own byte order (lmdb's mdb.c). A page begins with
its number (8 bytes), two bytes of no meaning, its kind (2), and where its free space begins and ends (2 + 2; on an
overflow page, how many pages it spans). Behind that a branch or a leaf has the 2-byte places of its nodes, in order of
their keys. A node is 8 bytes, its key and, in a leaf, its value, all padded to an even length; the nodes fill the
page's end without gaps. The 8 bytes are the size of the value (4), flags (2) and the size of the key (2); in a branch
the first six are the number of the child. A value that is too large for a page is in overflow pages of its own, and
the number of the first is in its place.

The first two pages are metas. A commit writes one of them, in turn; the one with the higher transaction id holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, error
from sys import byteorder
from typing import NamedTuple

HEADER = 16
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG, TABLE = 1, 2  # flags of a leaf's node: the value is in overflow pages; the value is a Tree
NO_PAGE = (1 << 64) - 1
METAS = 2
MAX_DEPTH = 32
MAGIC = (0xBEEFC0DE).to_bytes(4, byteorder)
_FORMAT = 1
_INTEGER_KEYS = 0x08
_SIZES = (512, 1 << 15)  # of a page

_PAGE = Struct("=QHHHH")
_OVERFLOW = Struct("=Q2xHI")
_TREE = Struct("=IHHQQQQQ")
TREE_SIZE = _TREE.size
_META = Struct(f"=4sI8xQ{_TREE.size}s{_TREE.size}sQQ")
_NODE = Struct("=IHH")
_LINK = Struct("=IHH")  # of a branch: the lower 32 bits of the child's number, the next 16, the key's size
_NUMBER = Struct("=Q")


class PageError(Exception):
    """A page is not what it should be. The message says how."""


class Tree(NamedTuple):
    """What LMDB records of a B-tree."""

    pad: int  # the size of a page, in the record of the tree of free pages
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int

    @classmethod
    def parse(cls, data: bytes) -> Tree:
        return cls(*_TREE.unpack(data))


class Meta(NamedTuple):
    """A meta page: a state of the file."""

    free: Tree
    main: Tree
    last_page: int
    number: int  # of the transaction

    @property
    def page_size(self) -> int:
        return self.free.pad


class Nodes(NamedTuple):
    """The nodes of a leaf, in order."""

    keys: Sequence[bytes]
    flags: Sequence[int]
    sizes: Sequence[int]  # of the values
    values_at: Sequence[int]

    def without(self, at: int) -> Nodes:
        return Nodes(
            *([*column[:at], *column[at + 1 :]] for column in (self.keys, self.flags, self.sizes, self.values_at))
        )


def read_meta(fd: int, place: int, at: int) -> Meta:
    """Read the meta page that is page ``place`` and begins at byte ``at``.

    :raises PageError: it is none.
    """
    return parse_meta(os.pread(fd, HEADER + _META.size, at), place)


def parse_meta(data: bytes, place: int) -> Meta:
    """Return what the bytes of meta page ``place`` say.

    :raises PageError: it is none.
    """
    if len(data) < HEADER + _META.size:
        raise PageError(f"the file ends in meta page {place}")
    page, _, kind, _, _ = _PAGE.unpack_from(data)
    magic, version, _, free, main, last_page, number = _META.unpack_from(data, HEADER)
    if kind != META or page != place or magic != MAGIC or version != _FORMAT:
        raise PageError(f"meta page {place} is none of LMDB's format {_FORMAT}")
    meta = Meta(Tree.parse(free), Tree.parse(main), last_page, number)
    size = meta.page_size
    if size & (size - 1) or not _SIZES[0] <= size <= _SIZES[1]:
        raise PageError(f"meta page {place} says that pages have {size} bytes")
    return meta


def read_metas(fd: int) -> tuple[Meta, Meta]:
    """Read both meta pages.

    :raises PageError: LMDB would not open the file either.
    """
    first = read_meta(fd, 0, 0)
    second = read_meta(fd, 1, first.page_size)
    if first.page_size != second.page_size:
        raise PageError(f"the meta pages disagree on the size of a page ({first.page_size}, {second.page_size})")
    return first, second


def meta_page(page: bytes, place: int, number: int) -> bytes:
    """Return a meta page as one that is page ``place``, of transaction ``number``."""
    end = HEADER + _META.size
    return _NUMBER.pack(place) + page[_NUMBER.size : end - _NUMBER.size] + _NUMBER.pack(number) + page[end:]


def newest(metas: tuple[Meta, Meta]) -> Meta:
    """Return the meta page that holds."""
    return metas[metas[0].number < metas[1].number]


def read_page(fd: int, number: int, size: int) -> bytes:
    page = os.pread(fd, size, number * size)
    if len(page) < size:
        raise PageError("lies behind the end of the file")
    return page


def page_kind(page: bytes, number: int) -> int:
    """Return what kind of page this is: BRANCH or LEAF.

    :raises PageError: another kind, or the page says that it is another one.
    """
    own, _, kind, _, _ = _PAGE.unpack_from(page)
    if own != number:
        raise PageError(f"says that it is page {own}")
    if kind not in (BRANCH, LEAF):
        raise PageError(f"is neither a branch nor a leaf (kind {kind:#x})")
    return kind  # type: ignore[no-any-return]


def leaf_nodes(page: bytes) -> Nodes:
    """Take a leaf apart.

    :raises PageError: its nodes do not fill it.
    """
    places = _places(page)
    try:
        heads = [_NODE.unpack_from(page, at) for at in places]
    except error:
        raise PageError("has a node outside of the page") from None
    keys = [page[at + 8 : at + 8 + head[2]] for at, head in zip(places, heads, strict=True)]
    values_at = [at + 8 + head[2] for at, head in zip(places, heads, strict=True)]
    ends = [at + 8 if head[1] & BIG else at + head[0] for at, head in zip(values_at, heads, strict=True)]
    _check_places(page, places, ends)
    return Nodes(keys, [head[1] for head in heads], [head[0] for head in heads], values_at)


def any_nodes(page: bytes) -> Nodes:
    """Return the nodes of a leaf that lie within the page, however damaged it is."""
    count = max(0, min((_PAGE.unpack_from(page)[3] - HEADER) >> 1, (len(page) - HEADER) >> 1))
    found = []
    for at in _unpacker(count).unpack_from(page, HEADER):
        if HEADER + 2 * count <= at <= len(page) - 8:
            size, flags, key_size = _NODE.unpack_from(page, at)
            value_at = at + 8 + key_size
            if value_at + (8 if flags & BIG else size) <= len(page):
                found.append((page[at + 8 : value_at], flags, size, value_at))
    return Nodes(*zip(*found, strict=True)) if found else Nodes((), (), (), ())


def branch_nodes(page: bytes) -> tuple[list[bytes], list[int]]:
    """Take a branch apart into keys and children. A child's keys are from its key on; the first key means nothing.

    :raises PageError: its nodes do not fill it.
    """
    places = _places(page)
    try:
        heads = [_LINK.unpack_from(page, at) for at in places]
    except error:
        raise PageError("has a node outside of the page") from None
    keys = [page[at + 8 : at + 8 + head[2]] for at, head in zip(places, heads, strict=True)]
    _check_places(page, places, [at + 8 + head[2] for at, head in zip(places, heads, strict=True)])
    return keys, [head[0] | head[1] << 32 for head in heads]


def overflow_pages(fd: int, number: int, page_size: int, value_size: int) -> int:
    """Return how many pages the value that begins at page ``number`` has for itself.

    :raises PageError: it is no overflow page, or has too few pages for the value.
    """
    head = os.pread(fd, HEADER, number * page_size)
    if len(head) < HEADER:
        raise PageError("lies behind the end of the file")
    own, kind, pages = _OVERFLOW.unpack(head)
    if own != number:
        raise PageError(f"says that it is page {own}")
    if kind != OVERFLOW:
        raise PageError(f"is no overflow page (kind {kind:#x})")
    if pages * page_size < HEADER + value_size:  # LMDB may leave more than are needed
        raise PageError(f"spans {pages} pages, too few for a value of {value_size} bytes")
    return pages  # type: ignore[no-any-return]


def read_overflow(fd: int, number: int, page_size: int, value_size: int) -> bytes:
    value = os.pread(fd, value_size, number * page_size + HEADER)
    while len(value) < value_size:
        more = os.pread(fd, value_size - len(value), number * page_size + HEADER + len(value))
        if not more:
            raise PageError("lies behind the end of the file")
        value += more
    return value


def first_leaf(fd: int, meta: Meta) -> tuple[int, bytes]:
    """Return the first leaf of the main tree, with its number: Rack's own records are in it.

    :raises PageError: a page on the way is damaged.
    """
    number = meta.main.root
    for _ in range(MAX_DEPTH):
        page = read_page(fd, number, meta.page_size)
        if page_kind(page, number) == LEAF:
            return number, page
        try:
            low, high, _ = _LINK.unpack_from(page, _places(page)[0])
        except error:
            raise PageError("has a node outside of the page") from None
        number = low | high << 32
    raise PageError("is deeper than LMDB's trees are")


def first_value_at(fd: int) -> int:
    """Return where in the file the value of the first key of the main tree is, which is in a leaf.

    :raises PageError: a page on the way is damaged.
    """
    meta = newest(read_metas(fd))
    number, page = first_leaf(fd, meta)
    return number * meta.page_size + leaf_nodes(page).values_at[0]


def page_number(page: bytes, at: int) -> int:
    """Return the page number that stands for a value in overflow pages."""
    number: int = _NUMBER.unpack_from(page, at)[0]
    return number


def integers(keys: Sequence[bytes]) -> list[int]:
    """Return transaction ids, the keys of the tree of free pages.

    :raises PageError: they are of another size.
    """
    try:
        return [_NUMBER.unpack(key)[0] for key in keys]
    except error:
        raise PageError("has a key that is no transaction id") from None


@lru_cache(maxsize=1024)
def _unpacker(count: int) -> Struct:
    return Struct(f"={count}H")


def _places(page: bytes) -> tuple[int, ...]:
    _, _, _, lower, upper = _PAGE.unpack_from(page)
    count = (lower - HEADER) >> 1
    if lower & 1 or count < 1 or lower > upper or upper > len(page):
        raise PageError(f"has its free space from {lower} to {upper}")
    return _unpacker(count).unpack_from(page, HEADER)


def _check_places(page: bytes, places: Sequence[int], ends: Sequence[int]) -> None:
    """Raise PageError unless the nodes fill the page from the end of its free space on, without gap or overlap."""
    begins = sorted(places)
    begins.append(len(page))
    padded = sorted([end + (end & 1) for end in ends])
    if begins[0] != _PAGE.unpack_from(page)[4] or begins[1:] != padded:
        raise PageError("has nodes that overlap, leave gaps or reach out of the page")
