"""``rack backup``: a store as it is at one instant, while others write to it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import click

from rack import LockTimeoutError, ReadOnlyError, StoreNotFoundError
from rack.care.increments import Increment, check_directory, write_increment
from rack.care.words import size
from rack.cli.arguments import complete_store, store_name, timeout_option, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, counted, remember, tell
from rack.cli.patience import MOMENT, PatientQueue, PatientShard, patience
from rack.cli.stores import whatever
from rack.container.copying import copied
from rack.shard import served_by, shard_class
from rack.shard.address import Address
from rack.shard.base import Snapshot
from rack.store import files, registry
from rack.store.backup import write_backup
from rack.store.instant import OpenSnapshot
from rack.store.manifest import Manifest, Request, absolute_path, manifest_path, shard_path
from rack.store.opening import Mode
from rack.store.openstore import Hold, OpenStore
from rack.store.sharded import Store


def _target(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """A store's name, or with --incremental a directory."""
    if context.params.get("incremental"):
        remember(value)
        return value
    name = store_name(context, parameter, value)
    assert name is not None
    return name


@click.command(cls=Command)
@click.argument("source", metavar="SRC", callback=store_name, shell_complete=complete_store)
@click.argument("target", metavar="DST", callback=_target, shell_complete=complete_store)
@click.option(
    "--incremental",
    is_flag=True,
    is_eager=True,
    help="DST is a directory of backups: shards that have not changed since the last one are shared with it.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --incremental: remove all but the last N backups of SRC, once this one is made.",
)
@workers_option("Copy N shards at a time.")
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def backup(source: str, target: str, incremental: bool, keep: int | None, workers: int, wish: Wish) -> None:
    """Back up the store SRC, as it is at one instant, to a new store DST.

    Other processes may go on writing to SRC: DST has all of its shards as they were at the same moment. It is a store
    like SRC, to be opened in place of it. DST is there, and on the disk, when the command has ended well, and not
    before: a backup that is interrupted leaves no store. An existing DST is an error.

    With --incremental DST is a directory, which is made if it is not there. The backup is a store in it, named like SRC
    with the time (UTC) behind it. It is complete without the others. As files are shared between them, it can be opened
    to read only; "rack restore" makes a store of it.

    Example: rack backup data/seen /backups --incremental --keep 7
    """
    if keep is not None and not incremental:
        raise click.UsageError("--keep goes with --incremental")
    begun = time.monotonic()
    path = absolute_path(source)
    if served_by(target) is not None:
        raise click.UsageError("a backup is made of files: `rack copy` makes a copy on a server")
    if isinstance(path, Address):
        _copied(path, target, workers, incremental, wish)
        return
    if incremental:
        check_directory(os.path.abspath(target))
    else:
        files.check_absent(absolute_path(target))
    removed: list[str] = []
    with ExitStack() as stack:
        held = stack.enter_context(_opened(path))
        increment = None
        made = absolute_path(target) if not incremental else ""
        if incremental:
            increment = stack.enter_context(Increment(path, held.manifest, os.path.abspath(target)))
            made = increment.target
        store = Store([PatientShard(shard) for shard in held.store(held.mode).shards])
        snapshot = patience.call(lambda: OpenSnapshot(held, store, None), held.shards)
        hold = Hold(snapshot)
        try:
            with Counter(wish, "shard", "backed up", f"{target} was not made") as show:
                entries = shards = 0

                def told(shard: Snapshot) -> None:
                    nonlocal entries, shards
                    entries += shard.count()
                    shard.close()
                    shards += 1
                    show(shards, len(snapshot.shards))

                if increment is None:
                    write_backup(snapshot, made, told, workers)
                else:
                    write_increment(snapshot, increment, told, workers)
        finally:
            registry.release(hold)
        if increment is not None and keep is not None:
            removed = increment.forget(keep)
    if not wish.quiet:
        seconds = time.monotonic() - begun
        name = os.path.join(target, os.path.basename(made)) if incremental else target
        summary = f"{counted(entries, 'entry')} backed up to {name}: {_size(made)} in {seconds:.2f} s"
        if increment is not None:
            summary += f"; {counted(len(increment.linked), 'shard')} of {held.manifest.shards} had not changed"
        if removed:
            summary += f"; {counted(len(removed), 'backup')} removed"
        tell(summary)


def _copied(source: Address, target: str, workers: int, incremental: bool, wish: Wish) -> None:
    """Back up a store on a server, of which there are no instants: each entry is of a moment of its own."""
    if incremental:
        raise click.UsageError(
            f"--incremental is for files, and {source} is on a server: `rack backup STORE DST` makes a whole one"
        )
    with Counter(wish, "entry", "backed up", f"{target} was not made") as show, whatever(source) as store:
        count, done = len(store), 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            show(done, count)

        if isinstance(store, PatientQueue):
            made = store.copy(target)
        else:
            made = copied(store, target, workers, {}, advance)
    with made:
        entries = len(made)
    if not wish.quiet:
        tell(f"{counted(entries, 'job' if made._kind == 'queue' else 'entry')} backed up to {target}")


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
