"""``rack dump``: a store as JSON Lines, or as a table, to be read by ``rack load`` and by other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar

import click

from rack.cli import jsonl
from rack.cli.arguments import store_argument, timeout_option, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, Failure, counted, tell
from rack.cli.lines import write_lines
from rack.cli.mapper import Mapper
from rack.cli.outfile import written
from rack.cli.output import check_open
from rack.cli.patience import PatientDict, PatientSet
from rack.cli.scan import blocks_of, entry_line
from rack.cli.stores import manifest_of, readable, records
from rack.cli.tables import FORMATS, format_of, write_rows
from rack.cli.values import key_option, key_writer, value_option, value_writer
from rack.shard.spans import ALL

T = TypeVar("T")

_BLOCK = 4096  # entries that a worker encodes at a time
_TOLD = 1024  # entries between two words about the progress


@click.command(cls=Command)
@store_argument
@click.argument("file", metavar="[FILE]", default="-")
@click.option("--format", type=click.Choice(FORMATS), help="Format of FILE (default: by its suffix, else jsonl).")
@key_option("In a table: what keys are written as (default: text).")
@value_option("In a table: what values are written as (default: text; json for serdes json).")
@workers_option("Encode with N processes.")
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def dump(
    store: str, file: str, format: str | None, key_type: str | None, value_type: str | None, workers: int, wish: Wish
) -> None:
    """Write all of STORE to FILE, or to standard output.

    "rack load" makes a store of it. "-", or no FILE, is standard output. The format is JSON Lines: a header that says
    what STORE is like; an object with "key" and "value" for each entry, of a set with "key" alone; and a last line,
    without which a dump is known to be cut off. Entries come in order of their keys' bytes, so that stores that hold
    the same give the same lines.

    Every key and value of Rack's own serdes comes back equal and of the same type. What JSON does not have is an object
    with one key: {"$bytes": "base64"}, {"$tuple": [...]}, and so on; the documentation has them all. A pickle is
    written as what it holds if that is plain data, else as {"$pickle": "base64"}: no code of it runs. What only a
    function of your own understands is {"$stored": "base64"}, the bytes that are stored: "rack load --raw" takes them.

    A queue is written as its records, which are bytes, as it is at one instant.

    A FILE that ends in .csv or .tsv is a table with the columns key and value. It has no types: 5 and "5" are the same
    in it. Lists and the like need --value json (or literal), which does keep types.

    FILE is compressed if it ends in .gz, .bz2, .xz or .zst. It takes the place of one that is there when the command
    has ended well, and not before. Other processes may use STORE meanwhile: what they write may be in FILE or not.
    "rack backup" makes a store of one instant, which can be dumped.

    Example: rack dump seen seen.jsonl.gz
    """
    chosen = format or format_of(file)
    if chosen == "jsonl" and (key_type or value_type):
        raise click.UsageError("--key and --value are for csv and tsv: JSON Lines has types")
    if chosen != "jsonl" and workers > 1:
        raise click.UsageError("--workers is for JSON Lines")
    if file == "-":
        check_open()
    bar = file != "-" or not sys.stdout.isatty()  # the bar and the lines are not to be mixed on one terminal
    with ExitStack() as stack:
        encode = _encoder(stack, store, workers)
        is_queue = manifest_of(store).kind == "queue"
        entries: Any = stack.enter_context(records(store) if is_queue else readable(store))
        if is_queue:  # whose jobs are on the move
            entries = stack.enter_context(entries.snapshot())
        left = "" if file == "-" else f"{file} was not written"
        with Counter(wish, "entry", "dumped", left, bar) as show:
            if chosen == "jsonl":
                lines = _dump_lines(entries, encode, show)
            else:
                lines = _table(entries, chosen, key_type, value_type, show)
            if file == "-":
                write_lines(lines, b"\n")
            else:
                with written(file) as sink:
                    write_lines(lines, b"\n", sink)
    if not wish.quiet:
        tell(f"{counted(show.done, 'entry')} dumped" + ("" if file == "-" else f" to {file}"))


#: What turns stored entries, in blocks, into lines, in blocks.
Encode = Callable[[Iterable[list[Any]]], Iterable[list[bytes]]]


def _encoder(stack: ExitStack, store: str, workers: int) -> Encode:
    """Return what encodes entries of a store that is not open yet; the workers live as long as ``stack``."""
    manifest = manifest_of(store)
    if manifest.kind == "queue":
        line_of = entry_line("bytes", "bytes")
    else:
        line_of = entry_line(manifest.key_serdes, manifest.serdes if manifest.kind == "dict" else None)

    if workers == 1:
        return lambda blocks: (list(map(line_of, block)) for block in blocks)
    crew: Mapper[list[Any], bytes] = stack.enter_context(Mapper(workers, lambda block: b"\n".join(map(line_of, block))))
    return lambda blocks: (lines.split(b"\n") for lines in crew.results(_larger(blocks)))


def _larger(blocks: Iterable[list[T]]) -> Iterator[list[T]]:
    """Put blocks together, so that a worker has something to do."""
    collected: list[T] = []
    for block in blocks:
        collected += block
        if len(collected) >= _BLOCK:
            yield collected
            collected = []
    if collected:
        yield collected


def _dump_lines(entries: PatientDict | PatientSet, encode: Encode, show: Counter) -> Iterator[bytes]:
    yield jsonl.line(jsonl.header(entries._manifest, entries._open_store().durability))
    yield from _told(chain.from_iterable(encode(blocks_of(entries, ALL))), len(entries), show)
    yield jsonl.line(jsonl.end(show.done))


def _table(
    entries: PatientDict | PatientSet, format: str, key_type: str | None, value_type: str | None, show: Counter
) -> Iterator[bytes]:
    write_key = key_writer(entries._key_codec.name, entries._load_stored_key, key_type or "text")
    rows: Iterator[tuple[bytes, ...]]
    if isinstance(entries, PatientDict):
        serdes = entries._serdes.name
        write_value = value_writer(serdes, entries._load_value, value_type or ("json" if serdes == "json" else "text"))
        pairs = chain.from_iterable(entries._store.all_pairs(ALL))
        rows = ((write_key(key), write_value(value)) for key, value in pairs)
        titles: tuple[str, ...] = ("key", "value")
    else:
        rows = ((write_key(key),) for key in chain.from_iterable(entries._store.all_keys(ALL)))
        titles = ("key",)
    try:
        yield from write_rows(_told(rows, len(entries), show), format, titles)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise Failure(str(error)) from error


def _told(rows: Iterable[T], total: int, show: Counter) -> Iterator[T]:
    """Yield the rows, and say now and then how many there were."""
    number = 0
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _TOLD:
            show(min(number, total), total)
    show(number, max(number, total))
