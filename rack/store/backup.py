"""A backup: a store of its own, made by the engine from a snapshot of each shard.

It has an id of its own, unlike a copy made with ``cp``. So a shard file that is moved between a store and a backup, or
two backups, is noticed when it is opened: the two are of different instants, and a store is only whole at one. And
processes that have a store open notice that a backup has taken its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from rack.errors import RackError
from rack.shard.base import ShardSpec, Snapshot
from rack.store import files, registry
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Request, manifest_path, new_id
from rack.system.disk import path_error
from rack.system.imports import importing


def write_backup(
    snapshot: OpenSnapshot,
    target: str,
    copied: Callable[[Snapshot], object] = lambda shard: None,
    workers: int = 1,
    links: Mapping[int, str] = MappingProxyType({}),
    store_id: str | None = None,
    tell: Callable[[str], object] = lambda path: None,
) -> None:
    """Make the store ``target``; ``copied`` is called with each shard that is done.

    :param workers: how many threads copy shards.
    :param links: shards that are there, by number: they get another name.
    :param store_id: that of these shards.
    :param tell: called with the path at which the store is made, when its shards are there.
    """
    files.check_absent(target)
    directory = os.path.dirname(target)
    manifest = snapshot.manifest._replace(id=store_id or new_id())
    source = files.anonymous_path(target)
    if not os.path.isdir(directory):
        raise path_error(FileNotFoundError(errno.ENOENT, "no such directory"), manifest_path(target))
    try:
        numbers = range(manifest.shards)
        specs = [manifest.spec(source, number, Request(manifest.kind), "process", False) for number in numbers]
        for number, file in links.items():
            os.link(file, specs[number].path)
            copied(snapshot.shards[number])
        _copy([(snapshot.shards[number], specs[number]) for number in numbers if number not in links], copied, workers)
        tell(source)
        registry.publish(manifest, source, target, snapshot.durability)
    except BaseException as error:
        with contextlib.suppress(OSError):
            files.discard(manifest, source)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or target) from error
        raise


def _copy(jobs: Sequence[tuple[Snapshot, ShardSpec]], copied: Callable[[Snapshot], object], workers: int) -> None:
    """Copy shards, some at a time: what takes long is done in C, without Python's lock."""
    if workers == 1:
        for shard, spec in jobs:
            shard.copy_to(spec)
            copied(shard)
        return
    with importing():
        from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(workers) as threads:
        running = {threads.submit(shard.copy_to, spec): shard for shard, spec in jobs}
        try:
            for done in as_completed(running):
                done.result()
                copied(running[done])
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
