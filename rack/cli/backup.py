"""``rack backup``: a store as it is at one instant, while others write to it."""

from __future__ import annotations

import errno
import os
import sys
import time

import click

from rack import ReadOnlyError, StoreNotFoundError
from rack.cli.arguments import store_name
from rack.cli.entrybar import entry_bar
from rack.cli.failure import tell
from rack.cli.progress import size
from rack.shard import shard_class
from rack.shard.base import Snapshot
from rack.store import files, registry
from rack.store.backup import write_backup
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Manifest, Request, manifest_path, shard_path
from rack.store.opening import Mode
from rack.store.registry import Hold


@click.command()
@click.argument("source", metavar="SRC", callback=store_name)
@click.argument("target", metavar="DST", callback=store_name)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary on standard error.")
def backup(source: str, target: str, quiet: bool) -> None:
    """Back up the store SRC, as it is at one instant, to a new store DST.

    Other processes may go on writing to SRC: DST has all of its shards as they were at the same moment. It is a store
    like SRC, to be opened in place of it. DST is there, and on the disk, when the command has ended well, and not
    before: a backup that is interrupted leaves no store. An existing DST is an error.
    """
    begun = time.monotonic()
    path, target = os.path.abspath(source), os.path.abspath(target)
    files.check_absent(target)
    held = _open(path)
    try:
        snapshot = OpenSnapshot(held.opened, held.opened.store(held.opened.mode), None)
        hold = Hold(snapshot)
        try:
            with entry_bar(quiet or not sys.stderr.isatty(), "shards") as show:
                entries = shards = 0

                def copied(shard: Snapshot) -> None:
                    nonlocal entries, shards
                    entries += shard.count()
                    shard.close()
                    shards += 1
                    show(shards, len(snapshot.shards))

                write_backup(snapshot, target, copied)
        finally:
            registry.release(hold)
    finally:
        registry.release(held)
    if not quiet:
        tell(f"{entries:,} entries backed up to {target}: {_size(target)} in {time.monotonic() - begun:.2f} s")


def _open(path: str) -> Hold:
    """Open a store whatever its serdes and hash are: bytes are copied. Who may not write to it reads only."""
    try:
        request = Request(Manifest.read(path).kind, opaque=True)
    except FileNotFoundError:
        raise StoreNotFoundError(errno.ENOENT, "there is no such store", manifest_path(path)) from None
    try:
        return registry.acquire(path, request, Mode("w", None, None, None))
    except ReadOnlyError:
        return registry.acquire(path, request, Mode("r", None, None, None))


def _size(path: str) -> str:
    manifest = Manifest.read(path)
    suffix = shard_class(manifest.engine).suffix
    return size(sum(os.path.getsize(shard_path(path, number, suffix)) for number in range(manifest.shards)))
