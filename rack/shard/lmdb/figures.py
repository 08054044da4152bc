"""Looks at an LMDB shard from outside, whoever has it open: a few pages are read as bytes, and nothing is waited for.

The meta pages count the entries, and the pages of each tree. So the free pages are counted, too: they are all others.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from io import FileIO
from itertools import islice
from typing import NamedTuple

from rack.errors import RackError
from rack.shard.base import ShardSpec
from rack.shard.figures import Access, Figures, OldestReader, size_of
from rack.shard.lmdb import datafile, journalfiles, pages
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.journal import SLOTS, base_path
from rack.shard.lmdb.opening import identity
from rack.shard.lmdb.pages import Meta, PageError, Tree
from rack.shard.lmdb.readertable import Slot, readers
from rack.shard.problem import corrupt, identity_problem, missing
from rack.system.disk import path_error
from rack.system.flock import while_open

_TRIES = 2000
_MOST_LISTS = 1000  # of free pages, which a glance reads
_NO_TREE = Tree(0, 0, 0, 0, 0, 0, 0, pages.NO_PAGE)


_Records = dict[bytes, bytes]


class _State(NamedTuple):
    meta: Meta
    long: Tree

    @property
    def used(self) -> int:
        """How many pages are in a tree."""
        trees = (self.meta.free, self.meta.main, self.long)
        return pages.METAS + sum(tree.branches + tree.leaves + tree.overflows for tree in trees)

    @property
    def free(self) -> int:
        """How many pages are in the lists of free pages."""
        return max(0, self.meta.last_page + 1 - self.used)


def figures(spec: ShardSpec, access: Access) -> Figures:
    """As :meth:`rack.shard.base.Shard.figures`."""
    try:
        return while_open(lambda: FileIO(spec.path), lambda fd: _figures(fd, spec, access))
    except PageError as error:
        raise corrupt(spec.path, f"is damaged: {error}") from error
    except OSError as error:
        if isinstance(error, RackError):
            raise
        if isinstance(error, FileNotFoundError):
            raise missing(spec.path) from None
        raise path_error(error, spec.path) from error


def _figures(fd: int, spec: ShardSpec, access: Access) -> Figures:
    datafile.check_header(fd, spec.path)
    state = _state(fd, spec)
    size = os.fstat(fd).st_size
    slots = access.through(spec.path + "-lock", readers)
    own = 1 if spec.layout == "small" else 2
    return Figures(
        entries=max(0, state.meta.main.entries + state.long.entries - own),
        size=size,
        free=size - state.used * state.meta.page_size,
        commits=state.meta.number,
        journal=size_of(journalfiles.journals(spec.path)),
        base=size_of(base_path(spec.path, slot) for slot in range(SLOTS)),
        unsynced=journalfiles.unsynced(spec.path),
        oldest=_oldest(fd, state, slots or []),
        readers_are_known=slots is not None,
        dead_readers=tuple(sorted({slot.pid for slot in slots or () if not slot.is_alive})),
    )


def _oldest(fd: int, state: _State, slots: list[Slot]) -> OldestReader | None:
    reading = [(slot.txn, slot.pid) for slot in slots if slot.txn is not None]
    if not reading:
        return None
    first = min(reading)[0]
    behind = max(0, state.meta.number - first)
    pids = sorted({pid for txn, pid in reading if txn == first})
    return OldestReader(tuple(pids), behind, _held(fd, state, first) if behind else 0)


def _state(fd: int, spec: ShardSpec) -> _State:
    """Return the present state of the file. Writers go on: what was read counts if there was no commit meanwhile.

    :raises CorruptShardError: it is not the shard that the spec says, or damaged.
    """
    found = None
    for _ in range(_TRIES):
        meta = pages.newest(pages.read_metas(fd))
        try:
            records: _Records | PageError = _records(fd, meta)
        except PageError as error:
            records = error
        if pages.newest(pages.read_metas(fd)).number == meta.number:
            if isinstance(records, PageError):
                raise records
            return _State(meta, _long_tree(records, spec))
        if isinstance(records, dict):
            found = meta, records
    # A shard that is written to so fast changes faster than anyone could read the figures.
    if found is None:
        raise RackError(f"{spec.path} changes too fast to be looked at: try again when there are fewer writers")
    return _State(found[0], _long_tree(found[1], spec))


def _records(fd: int, meta: Meta) -> _Records:
    """Return Rack's own records. They come first, but for keys that begin with the first one's: those are between."""
    found = {}
    for key in (IDENTITY, LONG_TABLE):
        leaf = _leaf(fd, meta, key)
        nodes = pages.leaf_nodes(leaf)
        if key in nodes.keys:
            place = nodes.keys.index(key)
            at = nodes.values_at[place]
            found[key] = leaf[at : at + nodes.sizes[place]]
    return found


def _leaf(fd: int, meta: Meta, key: bytes) -> bytes:
    """Return the page that a key is in, if it is there."""
    number = meta.main.root
    for _ in range(pages.MAX_DEPTH):
        page = pages.read_page(fd, number, meta.page_size)
        if pages.page_kind(page, number) == pages.LEAF:
            return page
        keys, children = pages.branch_nodes(page)
        number = children[bisect_right(keys, key, lo=1) - 1]
    raise PageError("is deeper than LMDB's trees are")


def _long_tree(records: _Records, spec: ShardSpec) -> Tree:
    """Check whose shard it is, and return the tree of long keys."""
    found = records.get(IDENTITY)
    problem = identity_problem(identity(spec).decode(), None if found is None else found.decode("latin-1"))
    if problem is not None:
        raise corrupt(spec.path, problem.message)
    if spec.layout == "small":
        return _NO_TREE
    record = records.get(LONG_TABLE, b"")
    if len(record) != pages.TREE_SIZE:
        raise corrupt(spec.path, "is damaged: it has no table of long keys")
    return Tree.parse(record)


def _held(fd: int, state: _State, oldest: int) -> int | None:
    """Return how many bytes a reader of a transaction keeps from being used again; None if that takes too long to tell.

    What was freed since is not used again as long as it reads, and that goes for the pages that are read here.
    """
    try:
        held = 0
        for txn, count in islice(_lists(fd, state.meta, True), _MOST_LISTS):
            if txn < oldest:
                break
            held += count
        else:
            if state.meta.free.entries > _MOST_LISTS:  # so there are many: few are usable then
                usable = 0
                for txn, count in islice(_lists(fd, state.meta, False), _MOST_LISTS):
                    if txn >= oldest:
                        break
                    usable += count
                else:
                    return None
                held = max(0, state.free - usable)
    except PageError:  # it has ended meanwhile
        return None
    return held * state.meta.page_size


def _lists(fd: int, meta: Meta, newest_first: bool) -> Iterator[tuple[int, int]]:
    """Yield for each list of free pages the transaction that freed them, and how many they are."""
    step = -1 if newest_first else 1
    stack = [meta.free.root] if meta.free.root != pages.NO_PAGE else []
    while stack:
        number = stack.pop()
        page = pages.read_page(fd, number, meta.page_size)
        if pages.page_kind(page, number) == pages.BRANCH:
            stack += pages.branch_nodes(page)[1][::-step]
            continue
        nodes = pages.leaf_nodes(page)
        for txn, flags, at in list(zip(pages.integers(nodes.keys), nodes.flags, nodes.values_at, strict=True))[::step]:
            if flags & pages.BIG:
                first = pages.read_overflow(fd, pages.page_number(page, at), meta.page_size, 8)
                yield txn, pages.page_number(first, 0)
            else:
                yield txn, pages.page_number(page, at)
