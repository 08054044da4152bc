"""``rack load``: a store of what ``rack dump`` has written, or of a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import click

from rack.care.remove import exists as is_there
from rack.cli.arguments import shape_options, store_argument, timeout_option, workers_option
from rack.cli.display import Wish, with_wish
from rack.cli.entries import BadLineError, Entries, Kept, Options, Table
from rack.cli.failure import Command, Failure, counted, tell
from rack.cli.inputs import InputError
from rack.cli.patience import PatientRecords
from rack.cli.progress import Reading
from rack.cli.sources import Source
from rack.cli.stores import CLASSES, existing, manifest_of
from rack.cli.tables import FORMATS, format_of
from rack.cli.values import key_option, value_option
from rack.codec.keys import resolve_codec
from rack.codec.serdes import PRESETS
from rack.errors import StoreExistsError
from rack.shard import SERVED, served_by
from rack.store.manifest import Manifest, manifest_path
from rack.store.taking import items_in_blocks


@click.command(cls=Command)
@store_argument
@click.argument("file", metavar="[FILE]", default="-")
@click.option("--format", type=click.Choice(FORMATS), help="Format of FILE (default: by its suffix, else jsonl).")
@click.option("--new", is_flag=True, help="STORE must not exist.")
@click.option(
    "--on-error",
    type=click.Choice(("stop", "skip")),
    default="stop",
    show_default=True,
    help="What to do about a line that is no entry.",
)
@click.option("--kind", type=click.Choice(sorted(CLASSES)), help="What a new STORE is (default: as FILE has it).")
@shape_options("a new STORE", "as FILE says, else as in Python; str for a table")
@click.option("--raw", is_flag=True, help="Take stored bytes that only functions of your own understand.")
@key_option("In a table: what keys are written as (default: text).")
@value_option("In a table: what values are written as (default: text; json for serdes json).")
@click.option("--key-column", metavar="COLUMN", help="In a table: the column of the keys (default: the first).")
@click.option("--value-column", metavar="COLUMN", help="In a table: the column of the values (default: the second).")
@click.option("--no-header", is_flag=True, help="In a table: the first row is an entry; columns are numbers, from 1.")
@workers_option("Read lines with N processes; one writes.")
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def load(store: str, file: str, format: str | None, new: bool, on_error: str, wish: Wish, **given: Any) -> None:
    """Put the entries of FILE into STORE.

    FILE is what "rack dump" has written, or a table. "-", or no FILE, is standard input. A STORE that does not exist is
    made, as the header of the dump says: of its kind, serdes, engine and shards. The options say otherwise. It is there
    when the command has ended well, and not before: a load that fails or is interrupted leaves no store. A STORE that
    exists is updated: a key that is there gets the value that FILE has. If that fails, the entries before the bad line
    are loaded; if it is interrupted, some of them.

    Lines of a file without a header will do: objects with "key" and, for a dict, "value". A FILE that ends in .csv or
    .tsv is a table, whose first row names the columns; --key-column and --value-column say which ones are meant. All in
    a table is text, unless --key or --value say that it is JSON or Python literals; a new store is of serdes "str".

    Files that end in .gz, .bz2, .xz or .zst are decompressed. An error names the line. With --on-error skip, lines that
    are no entries are left out and counted. A dump that was cut off is an error, too. No code in FILE is run; but read
    a store with pickles from others only if you trust them.

    Example: rack load seen seen.jsonl.gz --engine sqlite3
    """
    options = Options(format or format_of(file), is_skipping=on_error == "skip", **given)
    options.check()
    exists = is_there(store)
    if exists and new:
        raise StoreExistsError(f"{manifest_path(store)}: there is such a store, and --new was given")
    kept = Kept()
    try:
        source = Source.of(file)
        if not wish.quiet and file == "-" and os.isatty(0):
            tell("reading lines from the terminal; Ctrl-D ends them")
        with Reading(wish, total=source.size, left="" if exists else f"{store} was not made") as meter:
            kept.say = meter.say
            entries = (Entries if options.format == "jsonl" else Table)(_blocks(source, meter), options, kept)
            _load(store, exists, entries, options, meter.tick)
    except BadLineError as error:
        raise Failure(f"{_place(file, kept)}{error}; {_left(store, exists, kept)}") from error
    except csv.Error as error:
        raise Failure(f"{_place(file, kept)}no row of a table: {error}; {_left(store, exists, kept)}") from error
    except InputError as error:
        raise Failure(f"{error}; {_left(store, exists, kept)}" if kept.line else str(error)) from error
    if not wish.quiet:
        skipped = f", {counted(kept.skipped, 'line')} skipped" if kept.skipped else ""
        tell(f"{counted(kept.entries, 'entry')} loaded{skipped}")


def _load(store: str, exists: bool, entries: Entries, options: Options, tick: Callable[[], None]) -> None:
    """Update a store with the entries; or make one of them, as a whole or not at all."""
    with ExitStack() as stack:
        if exists:
            target = existing(store, "w", **options.asked(), **entries.own_serdes())
            manifest = manifest_of(store)
            manifest.reconcile(target._request, target._path)
        else:
            kind, shape = entries.kind(), _fitting(store, entries.shape(), options)
            cls = PatientRecords if kind == "queue" else CLASSES[kind]
            target = cls(store, **shape)
            manifest = Manifest.new(target._request)
        if manifest.kind == "queue":
            if options.serdes or options.key_serdes:
                raise click.UsageError("a queue has the serdes that its dump says")
            codecs = resolve_codec("bytes", PRESETS["bytes"]), PRESETS["bytes"]
        else:
            codecs = manifest.codecs(target._request)
        pairs = entries.pairs(manifest.kind, *codecs, stack, tick)

        def fill(opened: Any) -> None:
            opened._store.put_all(items_in_blocks(pairs))

        if exists:
            fill(stack.enter_context(target))
        else:
            stack.enter_context(cls._produce(store, store, shape, fill))


def _fitting(store: str, shape: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return the shape of a new store: a dump from files goes to a server as well, and the other way round."""
    if (
        options.engine is None
        and shape.get("engine") != served_by(store)
        and (served_by(store) is not None or shape.get("engine") in SERVED)
    ):
        return {**shape, "engine": None}
    return shape


def _blocks(source: Source, meter: Reading) -> Iterator[list[bytes]]:
    """Yield the lines of a file, in blocks."""
    for block, consumed in source.blocks(b"\n", meter.tick):
        lines = block.split(b"\n")
        yield lines
        meter.bytes += consumed
        meter.lines += len(lines)
        meter.tick()


def _place(file: str, kept: Kept) -> str:
    return f"line {kept.line:,}" + (": " if file == "-" else f" of {file}: ")


def _left(store: str, exists: bool, kept: Kept) -> str:
    """Say what there is of a load that has failed."""
    if not exists:
        return f"{store} was not made"
    return f"{counted(kept.entries, 'entry')} before it {'was' if kept.entries == 1 else 'were'} loaded"
