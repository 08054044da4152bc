"""A backup: a store of its own, made by the engine from a snapshot of each shard.

It has an id of its own, unlike a copy made with ``cp``. So a shard file that is moved between a store and a backup, or
two backups, is noticed when it is opened: the two are of different instants, and a store is only whole at one. And
processes that have a store open notice that a backup has taken its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from rack.errors import RackError
from rack.shard.base import Snapshot
from rack.store import files, registry
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Request, manifest_path, new_id
from rack.system.disk import path_error


def write_backup(
    snapshot: OpenSnapshot, target: str, copied: Callable[[Snapshot], object] = lambda shard: None
) -> None:
    """Make the store ``target``; ``copied`` is called with each shard that is done."""
    files.check_absent(target)
    directory = os.path.dirname(target)
    manifest = snapshot.manifest._replace(id=new_id())
    source = files.anonymous_path(target)
    if not os.path.isdir(directory):
        raise path_error(FileNotFoundError(errno.ENOENT, "no such directory"), manifest_path(target))
    try:
        for number, shard in enumerate(snapshot.shards):
            shard.copy_to(manifest.spec(source, number, Request(manifest.kind), "process", False))
            copied(shard)
        registry.publish(manifest, source, target, snapshot.durability)
    except BaseException as error:
        with contextlib.suppress(OSError):
            files.discard(manifest, source)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or target) from error
        raise
