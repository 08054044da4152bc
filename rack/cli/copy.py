"""``rack copy``: a store again, with another engine, other shards or another serdes; also one of Rack 0.1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from rack import StoreNotFoundError
from rack.care import legacy
from rack.cli.arguments import store_name
from rack.cli.entrybar import entry_bar
from rack.cli.failure import tell
from rack.cli.stores import CLASSES, existing
from rack.codec.serdes import PRESETS
from rack.container.copying import copied
from rack.shard import ENGINES


@click.command()
@click.argument("source", metavar="SRC", callback=store_name)
@click.argument("target", metavar="DST", callback=store_name)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), help="Engine of DST (default: that of SRC).")
@click.option("--shards", type=click.IntRange(min=1), metavar="N", help="Shards of DST (default: as many as SRC).")
@click.option("--serdes", type=click.Choice(sorted(PRESETS)), help="Serdes of DST (default: that of SRC).")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Copy with N processes."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary on standard error.")
def copy(
    source: str, target: str, engine: str | None, shards: int | None, serdes: str | None, workers: int, quiet: bool
) -> None:
    """Copy the store SRC to a new store DST.

    This is how a store gets another engine, another number of shards or another serdes. DST is there when the command
    has ended well, and not before: a copy that is interrupted leaves no store. An existing DST is an error.

    SRC may be a store of Rack 0.1 (SRC.lmdb or SRC.sqlite3, made with the default serdes).

    Other processes may use SRC meanwhile; what they write after the copy has passed is not in DST.
    """
    given = {"engine": engine, "shards": shards, "serdes": serdes}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with entry_bar(quiet or not sys.stderr.isatty()) as show:
        try:
            store = existing(source)
        except StoreNotFoundError:
            made = _copied_legacy(source, target, options, show)
        else:
            with store:
                count, done = len(store), 0

                def advance(more: int) -> None:
                    nonlocal done
                    done += more
                    show(done, count)

                made = copied(store, target, workers, options, advance)
    with made:
        copied_entries = len(made)
    if not quiet:
        tell(f"{copied_entries:,} entries copied to {target}")


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
