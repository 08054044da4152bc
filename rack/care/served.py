"""A store on servers from outside: what is told of it, its shards one by one, its end."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import NamedTuple

from rack.care.stat import ShardStat, Stat
from rack.errors import (
    RackError,
    StoreExistsError,
    StoreNotFoundError,
    StorePathError,
    UnsupportedOperation,
    told,
)
from rack.jobs.counting import counted
from rack.shard import server_of
from rack.shard.address import Address
from rack.shard.base import Examined
from rack.shard.server import Server
from rack.store import marks, registry
from rack.store.manifest import Request, absolute_path
from rack.store.marks import Mark, read_mark, settle
from rack.store.opening import Mode

_LEFT = re.compile(r"~[0-9a-f]{12}$")
_REMOVE = "`rack rm` removes it"


@contextmanager
def marked(address: Address) -> Iterator[tuple[Server, Mark]]:
    """Give the servers of a store, and its mark.

    :raises StoreNotFoundError: there is no store.
    """
    with closing(server_of(address, None)) as server:
        mark = read_mark(server)
        if mark is None:
            raise StoreNotFoundError(errno.ENOENT, "there is no such store", address)
        yield server, mark


def look(name: str, address: Address) -> Stat:
    """Return what a store is like. Its size is the memory that its shards take, about."""
    with marked(address) as (server, mark):
        manifest = mark.manifest
        specs = [manifest.spec(address, n, Request(manifest.kind), "everysec", True) for n in range(manifest.shards)]
        shards = server.shards(mark.place, specs)
        counts: list[int] = server.together([(shard, "count", ()) for shard in shards])  # type: ignore[assignment]
        sizes = server.sizes(mark.place, manifest.shards)
        jobs = counted(shards) if manifest.kind == "queue" else None
    per_shard = tuple(
        ShardStat(number, count, size, 0, 0, 0, None)
        for number, (count, size) in enumerate(zip(counts, sizes, strict=True))
    )
    return Stat._of(name, manifest, per_shard, sum(sizes), durability="everysec", jobs=jobs)


def examined(address: Address, number: int) -> Examined:
    """Go over all of a shard."""
    with marked(address) as (_, mark):
        kind = mark.manifest.kind
    hold = registry.acquire(address, Request(kind, opaque=True), Mode("r", None, None, None))
    try:
        yield from hold.opened.shards[number].examine()
    finally:
        registry.release(hold)


def remove(address: Address) -> None:
    """Remove a store: whenever the process is killed, it is there as it was, or is not there."""
    with closing(server_of(address, None)) as server:
        there = server.read()
        mark = settle(server)
        if mark is not None:
            marks.remove(server, mark)
        elif there is None:
            raise StoreNotFoundError(errno.ENOENT, "there is no such store", address)


def exists(address: Address) -> bool:
    with closing(server_of(address, None)) as server:
        return read_mark(server) is not None


class Listed(NamedTuple):
    """A store that is on a server, or the mark of one."""

    address: Address
    mark: Mark | None
    problem: str | None
    size: int = 0


def listed(address: Address) -> Iterator[Listed]:
    """Yield what there is on the servers whose name begins with that of ``address``, sorted."""
    with closing(server_of(address, None)) as server:
        for name, data in server.marks(server.name):
            yield _listed(server.named(name), data)


def _listed(address: Address, data: bytes) -> Listed:
    with closing(server_of(address, None)) as server:
        try:
            mark = read_mark(server, data)
        except RackError as error:
            return Listed(address, None, told(error))
        if mark is None:
            return Listed(address, None, f"not a store, but left by one that was removed or renamed: {_REMOVE}")
        left = (
            f"made by an operation that was killed, or is under way: {_REMOVE}" if _LEFT.search(server.name) else None
        )
        return Listed(address, mark, left, sum(server.sizes(mark.place, mark.manifest.shards)))


def rename(source: str, target: str, replace: bool) -> str | None:
    """As :func:`rack.rename`, of a store on servers."""
    if not isinstance(source, Address) or not isinstance(target, Address):
        raise UnsupportedOperation(
            f"{source if isinstance(source, Address) else target} is on a server, and the other one is not:"
            " `rack copy` copies the store there, and `rack rm` removes the old one"
        )
    if source.parts == target.parts:
        raise StorePathError(errno.EINVAL, "the store has this name already", target)
    with closing(server_of(source, None)) as here, closing(server_of(target, None)) as there:
        mark = settle(here)
        if mark is None:
            raise StoreNotFoundError(errno.ENOENT, "there is no such store", source)
        with closing(server_of(there.named(here.name), None)) as same:
            # Unless somebody has changed it since.
            if same.read() != mark.data and here.read() == mark.data:
                raise UnsupportedOperation(
                    f"{target} is on other servers than {source}: `rack copy` copies the store there, and `rack rm`"
                    " removes the old one"
                )
        if here.name == there.name:
            raise StorePathError(errno.EINVAL, "the store has this name already", target)
        replaced = settle(there)
        if replaced is not None and not replace:
            raise StoreExistsError(errno.EEXIST, "there is a store of that name", target)
    return give_name(source, target, replaced)


def give_name(source: Address, target: Address, replaced: Mark | None) -> str | None:
    """Give a store another name on its servers, perhaps that of another one, which is kept; return its name then."""
    with closing(server_of(source, None)) as here, closing(server_of(target, None)) as there:
        if replaced is None:
            marks.move(here, there)
            return None
        names = (f"{there.name}-old" if number == 1 else f"{there.name}-old-{number}" for number in count(1))
        for name in names:
            aside = there.named(name)
            with closing(server_of(aside, None)) as free:
                if marks.settle(free) is None:
                    break
        marks.move(here, there, replaced.manifest.id, name)
        return aside


def file_path(name: str | os.PathLike[str], advice: str) -> str:
    """As :func:`rack.store.manifest.absolute_path`, for what is done to files.

    :raises UnsupportedOperation: the store is on a server. ``advice``: what to do instead.
    """
    path = absolute_path(name)
    if isinstance(path, Address):
        raise UnsupportedOperation(f"{path} is on a server, and has no files: {advice}")
    return path
