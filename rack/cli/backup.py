"""``rack backup``: a store as it is at one instant, while others write to it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from rack import LockTimeoutError, ReadOnlyError, StoreNotFoundError
from rack.cli.arguments import store_name, timeout_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, counted, tell
from rack.cli.patience import MOMENT, PatientShard, patience
from rack.cli.progress import size
from rack.shard import shard_class
from rack.shard.base import Snapshot
from rack.store import files, registry
from rack.store.backup import write_backup
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Manifest, Request, absolute_path, manifest_path, shard_path
from rack.store.opening import Mode
from rack.store.openstore import Hold, OpenStore
from rack.store.sharded import Store


@click.command(cls=Command)
@click.argument("source", metavar="SRC", callback=store_name)
@click.argument("target", metavar="DST", callback=store_name)
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def backup(source: str, target: str, wish: Wish) -> None:
    """Back up the store SRC, as it is at one instant, to a new store DST.

    Other processes may go on writing to SRC: DST has all of its shards as they were at the same moment. It is a store
    like SRC, to be opened in place of it. DST is there, and on the disk, when the command has ended well, and not
    before: a backup that is interrupted leaves no store. An existing DST is an error.
    """
    begun = time.monotonic()
    path = absolute_path(target)
    files.check_absent(path)
    with _opened(absolute_path(source)) as held:
        store = Store([PatientShard(shard) for shard in held.store(held.mode).shards])
        snapshot = patience.call(lambda: OpenSnapshot(held, store, None), held.shards)
        hold = Hold(snapshot)
        try:
            with Counter(wish, "shard", "backed up", f"{target} was not made") as show:
                entries = shards = 0

                def copied(shard: Snapshot) -> None:
                    nonlocal entries, shards
                    entries += shard.count()
                    shard.close()
                    shards += 1
                    show(shards, len(snapshot.shards))

                write_backup(snapshot, path, copied)
        finally:
            registry.release(hold)
    if not wish.quiet:
        seconds = time.monotonic() - begun
        tell(f"{counted(entries, 'entry')} backed up to {target}: {_size(path)} in {seconds:.2f} s")


@contextmanager
def _opened(path: str) -> Iterator[OpenStore]:
    """Wait, to open it and to close it, for other processes; not after an error: they will close it."""
    hold = patience.call(lambda: _open(path))
    try:
        yield hold.opened
    except BaseException:
        with suppress(LockTimeoutError):
            registry.release(hold)
        raise
    patience.call(lambda: registry.release(hold))


def _open(path: str) -> Hold:
    """Open a store whatever its serdes and hash are: bytes are copied. Who may not write to it reads only."""
    manifest = Manifest.read(path)
    if manifest is None:
        raise StoreNotFoundError(errno.ENOENT, "there is no such store", manifest_path(path))
    request = Request(manifest.kind, opaque=True)
    try:
        return registry.acquire(path, request, Mode("w", None, MOMENT, None))
    except ReadOnlyError:
        return registry.acquire(path, request, Mode("r", None, MOMENT, None))


def _size(path: str) -> str:
    manifest = Manifest.read(path)
    if manifest is None:  # it was removed just now
        return size(0)
    suffix = shard_class(manifest.engine).suffix
    return size(sum(os.path.getsize(shard_path(path, number, suffix)) for number in range(manifest.shards)))
