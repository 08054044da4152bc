"""Stores on servers that are made of others, byte by byte: cut anew, and of backups.

A new one is made under a name of its own, ``NAME~RANDOM``, and gets the name that it is for when it is full. What is
left of one whose maker was killed has that name: :func:`rack.care.served.listed` finds it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rack.care.served import give_name, marked
from rack.codec import digest
from rack.errors import StoreExistsError, StoreInUseError
from rack.shard import served_by, server_of
from rack.shard.address import Address
from rack.shard.spans import ALL, blocks
from rack.store import marks, registry
from rack.store.manifest import DEFAULT_SHARDS, Manifest, Request, new_id
from rack.store.marks import Mark
from rack.store.opening import Mode
from rack.store.servers import SERVERS
from rack.system.fanout import fan_out

Progress = Callable[[int], object]


def reshard(
    address: Address,
    shards: int,
    workers: int,
    hash: Callable[[bytes], bytes] | None,
    progress: Progress | None,
) -> int:
    """Cut a store on servers into another number of shards; return how many entries it has."""
    with marked(address) as (_, mark):
        old = mark.manifest
    request = Request(old.kind, hash=hash, opaque=True)
    old.reconcile_hash(request, address)
    new = old._replace(shards=shards, id=new_id())
    before = _versions(address, request)
    made = _begin(address, new)
    try:
        entries = sum(fan_out(_copy, (address, made, request), range(old.shards), workers, progress))
        if _versions(address, request) != before:
            raise StoreInUseError(
                errno.EBUSY, "others have written to the store while it was resharded; it is as it was", address
            )
        with closing(server_of(made, None)) as source, closing(server_of(address, None)) as target:
            marks.move(source, target, replaces=old.id)
    except BaseException:
        SERVERS.discard(new, made)
        raise
    return entries


def restore(source: str, request: Request, manifest: Manifest, target: Address, replace: bool) -> str | None:
    """Make a store on servers like one that is in files; return the name that one has now which was there."""
    with closing(server_of(target, None)) as server:
        there = marks.settle(server)
        if there is not None and not replace:
            raise StoreExistsError(errno.EEXIST, "there is a store of that name", target)
        engine = served_by(target)
        assert engine is not None
        is_queue = manifest.kind == "queue"
        layout = "ordered" if is_queue else server.layout(target.layout, digest.is_named(manifest.key_serdes))
        shards = DEFAULT_SHARDS if is_queue else server.default_shards
        new = manifest._replace(engine=engine, shards=shards, layout=layout, id=new_id())
        made = _begin(target, new)
        try:
            for number in range(manifest.shards):
                _copy(source, made, request, number, lambda done: None)
            return give_name(made, target, there)
        except BaseException:
            SERVERS.discard(new, made)
            raise


def _begin(target: Address, manifest: Manifest) -> Address:
    """Make an empty store that gets its name, ``target``, when it is full."""
    made = SERVERS.anonymous(target, target)
    assert isinstance(made, Address)
    with closing(server_of(made, None)) as server:
        server.change(None, Mark.new(manifest, server.name).data)
        marks.settle(server)
    return made


def _copy(source: str, target: str, request: Request, number: int, report: Callable[[int], object]) -> int:
    """Copy one shard of a store into another store, of the same keys and values; return how many entries it has."""
    done = 0

    def told() -> Any:
        nonlocal done
        for block in blocks(read.opened.shards[number], ALL, values=True):
            yield block
            done += len(block)
            report(len(block))

    read = registry.acquire(source, request, Mode("r", None, None, None))
    try:
        written = registry.acquire(target, request, Mode("w", None, None, None))
        try:
            written.opened.store(written.opened.mode).put_all(told())
        finally:
            registry.release(written)
    finally:
        registry.release(read)
    return done


def _versions(address: Address, request: Request) -> list[object]:
    read = registry.acquire(address, request, Mode("r", None, None, None))
    try:
        return [shard.version() for shard in read.opened.shards]
    finally:
        registry.release(read)
