"""A store on servers from outside: what is told of it, its shards one by one, its end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rack.care.stat import ShardStat, Stat, balance_of
from rack.errors import StoreNotFoundError, UnsupportedOperation
from rack.jobs.counting import counted
from rack.shard import server_of
from rack.shard.address import Address
from rack.shard.base import Examined
from rack.shard.server import Server
from rack.store import registry, servers
from rack.store.manifest import Request, absolute_path
from rack.store.opening import Mode
from rack.store.servers import Mark, read_mark


@contextmanager
def marked(address: Address) -> Iterator[tuple[Server, Mark]]:
    """Give the servers of a store, and its mark.

    :raises StoreNotFoundError: there is no store.
    """
    server = server_of(address, None)
    try:
        mark = read_mark(server)
        if mark is None:
            raise StoreNotFoundError(errno.ENOENT, "there is no such store", address)
        yield server, mark
    finally:
        server.close()


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
    ordered = sorted(per_shard, key=lambda each: each.entries)
    entries, total = sum(counts), sum(sizes)
    return Stat(
        name=name,
        id=manifest.id,
        kind=manifest.kind,
        engine=manifest.engine,
        layout=manifest.layout,
        durability="everysec",
        serdes=manifest.serdes,
        key_serdes=manifest.key_serdes,
        hash=manifest.hash,
        shards=manifest.shards,
        entries=entries,
        jobs=jobs,
        bytes_allocated=total,
        bytes_apparent=total,
        bytes_per_entry=total / entries if entries else None,
        bytes_data=total,
        bytes_free=0,
        bytes_journal=0,
        bytes_base=0,
        bytes_unsynced=None,
        clean=False,
        last_sync=None,
        balance=balance_of(counts),
        largest_shard=ordered[-1],
        smallest_shard=ordered[0],
        per_shard=per_shard,
        processes=None,
        oldest_snapshot=None,
        dead_readers=None,
        leftovers=None,
        advice=(),
    )


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
    with marked(address) as (server, mark):
        servers.remove(server, mark)


def exists(address: Address) -> bool:
    server = server_of(address, None)
    try:
        return server.read() is not None
    finally:
        server.close()


def file_path(name: str | os.PathLike[str], advice: str) -> str:
    """As :func:`rack.store.manifest.absolute_path`, for what is done to files.

    :raises UnsupportedOperation: the store is on a server. ``advice``: what to do instead.
    """
    path = absolute_path(name)
    if isinstance(path, Address):
        raise UnsupportedOperation(f"{path} is on a server, and has no files: {advice}")
    return path
