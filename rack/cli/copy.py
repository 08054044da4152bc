"""``rack copy``: a store again, with another engine, other shards or another serdes; also one of Rack 0.1."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from rack import PersistentDict, PersistentSet, legacy
from rack.cli.arguments import store_name
from rack.cli.failure import tell
from rack.manifest import Manifest
from rack.serdes import PRESETS
from rack.shard import ENGINES

if TYPE_CHECKING:
    from rich.progress import Progress

_CLASSES: dict[str, type[PersistentDict[Any, Any]] | type[PersistentSet[Any]]] = {
    "dict": PersistentDict,
    "set": PersistentSet,
}


@click.command()
@click.argument("source", metavar="SRC", callback=store_name)
@click.argument("target", metavar="DST", callback=store_name)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), help="Engine of DST (default: that of SRC).")
@click.option("--shards", type=click.IntRange(min=1), metavar="N", help="Shards of DST (default: as many as SRC).")
@click.option("--serdes", type=click.Choice(sorted(PRESETS)), help="Serdes of DST (default: that of SRC).")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary on standard error.")
def copy(source: str, target: str, engine: str | None, shards: int | None, serdes: str | None, quiet: bool) -> None:
    """Copy the store SRC to a new store DST.

    This is how a store gets another engine, another number of shards or another serdes. DST is there when the command
    has ended well, and not before: a copy that is interrupted leaves no store. An existing DST is an error.

    SRC may be a store of Rack 0.1 (SRC.lmdb or SRC.sqlite3, made with the default serdes).

    Other processes may use SRC meanwhile; what they write after the copy has passed is not in DST.
    """
    given = {"engine": engine, "shards": shards, "serdes": serdes}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    bar = _bar(quiet or not sys.stderr.isatty())

    def fill(made: Any) -> None:
        with bar:
            task = bar.add_task("", total=count)
            made._store.put_all(_ticking(made._pairs(entries), bar, task))

    entries: Any
    try:
        manifest = Manifest.read(os.path.abspath(source))
    except FileNotFoundError:
        old = legacy.find(source)
        count, entries = len(old), old.entries()
        made = _CLASSES[old.kind]._produce(target, target, options, fill)
    else:
        with _CLASSES[manifest.kind](source, flag="r") as store:
            count, entries = len(store), store
            made = store._derived(target, fill, **options)
    with made:
        copied = len(made)
    if not quiet:
        tell(f"{copied:,} entries copied to {target}")


def _bar(disable: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("entries"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=disable,
        transient=True,
    )


def _ticking(pairs: Iterable[Any], bar: Progress, task: Any) -> Iterator[Any]:
    for number, pair in enumerate(pairs):
        if not number % 1024:
            bar.update(task, completed=number)
        yield pair
