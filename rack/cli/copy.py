"""``rack copy``: a store again, with another engine, other shards or another serdes; also one of Rack 0.1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from rack import StoreNotFoundError
from rack.care import legacy
from rack.cli.arguments import complete_store, shape_options, store_name, timeout_option, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, counted, remember, tell
from rack.cli.patience import PatientQueue
from rack.cli.stores import CLASSES, whatever
from rack.container.copying import copied


def _source_name(context: click.Context, parameter: click.Parameter, value: str) -> str | None:
    """A store's name, or the file of a store of Rack 0.1."""
    if legacy.is_file_name(value) and os.path.isfile(value):
        remember(value)
        return value
    return store_name(context, parameter, value)


@click.command(cls=Command)
@click.argument("source", metavar="SRC", callback=_source_name, shell_complete=complete_store)
@click.argument("target", metavar="DST", callback=store_name, shell_complete=complete_store)
@shape_options("DST", "that of SRC", "that of SRC, but what goes with --serdes if SRC has no separate one")
@workers_option("Copy with N processes.")
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def copy(source: str, target: str, workers: int, wish: Wish, **given: Any) -> None:
    """Copy the store SRC to a new store DST.

    This is how a store gets another engine, another number of shards or another serdes. DST is there when the command
    has ended well, and not before: a copy that is interrupted leaves no store. An existing DST is an error.

    With --key-serdes digest DST has 16 bytes for each key, a digest of it, from which the key cannot be had back.
    digest:sha256, or digest:sha256:20 (bytes, 16 to 32) and so on are those of cryptographic functions: sha256, sha512,
    sha3_256, blake2b, blake2s.

    SRC may be a store of Rack 0.1 (SRC.lmdb or SRC.sqlite3, made with the default serdes).

    Other processes may use SRC meanwhile; what they write after the copy has passed is not in DST.

    Example: rack copy data/seen data/smaller --engine sqlite3
    """
    options = {name: value for name, value in given.items() if value is not None}
    with Counter(wish, "entry", "copied", f"{target} was not made") as show:
        try:
            store = whatever(source)
        except StoreNotFoundError:
            made = _copied_legacy(source, target, options, show)
        else:
            with store:
                count, done = len(store), 0

                def advance(more: int) -> None:
                    nonlocal done
                    done += more
                    show(done, count)

                if isinstance(store, PatientQueue):
                    made = _copied_queue(store, target, options)
                else:
                    made = copied(store, target, workers, options, advance)
    with made:
        copied_entries = len(made)
    if not wish.quiet:
        tell(f"{counted(copied_entries, 'job' if made._kind == 'queue' else 'entry')} copied to {target}")


def _copied_queue(jobs: PatientQueue, target: str, options: dict[str, Any]) -> Any:
    """Return a copy of a queue, as it is at one instant, opened."""
    for name in ("serdes", "key_serdes"):
        if name in options:
            raise click.UsageError(f"--{name.replace('_', '-')} is not for a queue: its copy has the one it has")
    return jobs.copy(target, **options)


def _copied_legacy(source: str, target: str, options: dict[str, Any], show: Callable[[int, int], None]) -> Any:
    """Return a copy of a store of Rack 0.1, opened."""
    old = legacy.find(source)
    count = len(old)

    def told(entries: Iterable[Any]) -> Iterator[Any]:
        for number, entry in enumerate(entries):
            if not number % 1024:
                show(number, count)
            yield entry

    return CLASSES[old.kind]._produce(target, target, options, lambda made: made.update(told(old.entries())))
