"""``rack scan``, ``keys`` and ``items``: the entries of a store, all of them or a range, as lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import click

from rack.cli import jsonl
from rack.cli.arguments import store_argument, timeout_option
from rack.cli.failure import Command, Failure
from rack.cli.lines import write_lines
from rack.cli.output import check_open
from rack.cli.patience import PatientDict
from rack.cli.stores import readable
from rack.cli.values import key_option, key_reader, key_writer, value_writer
from rack.container.scan import span_of
from rack.errors import UnorderedKeysError, told
from rack.shard.spans import Span


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all three have."""
    for option in (
        timeout_option,
        click.option("-0", "--null", is_flag=True, help="Lines end with NUL."),
        click.option("--json", "as_json", is_flag=True, help='Lines of JSON, as "rack dump" writes them.'),
        key_option("What P, S and E are written as (default: as keys are)."),
        click.option(
            "--limit", type=click.IntRange(min=0), metavar="N", help="At most N; with --reverse the last ones."
        ),
        click.option("--reverse", is_flag=True, help="From the last to the first."),
        click.option("--stop", metavar="E", help="Only keys before E."),
        click.option("--start", metavar="S", help="Only keys from S on."),
        click.option("--prefix", metavar="P", help="Only keys that begin with P."),
        store_argument,
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@_shared
def scan(store: str, **options: Any) -> None:
    """Write the entries of STORE in order of their keys: of a set the elements, of a dict the key, a tab, the value.

    Keys of serdes (or key_serdes) "str", "bytes" (as "rack dedup" makes) and "ordered" have an order. Other stores are
    listed in the order of their keys' bytes, which means nothing but is always the same. There, --prefix, --start and
    --stop are errors: "rack copy STORE NEW --key-serdes ordered" makes a store that has them.

    Keys and values of "str" and "bytes" are written as they are, values of "json" as JSON, all others as Python
    literals. P, S and E are written as the keys are: in a store of "str" or "bytes" a key is the line itself, and P is
    any beginning of it. In an "ordered" store 5, '5' and b'5' are told apart; P is a string, or a tuple for the tuples
    that begin with its elements: --prefix "('ann', 5)".

    Keys and values may have tabs and line ends in them: with --json nothing is ambiguous. On a terminal control
    characters are escaped. What only a function of your own can read is written as the bytes that are stored.

    A closed pipe (as in "| head") ends the command quietly.

    Example: rack scan data/seen --prefix https://example.org/
    """
    _write(store, True, **options)


@click.command(cls=Command)
@_shared
def keys(store: str, **options: Any) -> None:
    """Write the keys of STORE, or the elements of a set, a line each.

    Order, range and form are those of "rack scan"; see "rack scan --help" for P, S and E. With --json a line is a key,
    as "rack get STORE - --key json" reads it.

    Example: rack keys data/seen --limit 10
    """
    _write(store, False, **options)


@click.command(cls=Command)
@_shared
def items(store: str, **options: Any) -> None:
    """Write the entries of STORE, a dict, a line each: the key, a tab, the value.

    It is "rack scan" for dicts; see "rack scan --help", also for P, S and E.

    Example: rack items data/titles --json
    """
    _write(store, True, only_dicts=True, **options)


def _write(
    store: str,
    values: bool,
    as_json: bool,
    null: bool,
    prefix: str | None,
    start: str | None,
    stop: str | None,
    key_type: str | None,
    reverse: bool,
    limit: int | None,
    only_dicts: bool = False,
) -> None:
    check_open()
    with readable(store) as entries:
        is_dict = isinstance(entries, PatientDict)
        if only_dicts and not is_dict:
            raise Failure(f"{store} is a set, which has no values: `rack keys` lists its elements")
        bounds = {"start": start, "stop": stop, "prefix": prefix}
        span = span_from(entries, bounds, key_type, reverse, limit)
        write_lines(_lines(entries, span, values, is_dict, as_json), b"\0" if null else b"\n")


def span_from(
    entries: Any, bounds: dict[str, str | None], key_type: str | None, reverse: bool = False, limit: int | None = None
) -> Span:
    """Return the range that options mean, of an open store.

    :raises click.UsageError: a bound is none.
    :raises UnorderedKeysError: there are bounds, and the keys have no order.
    """
    codec = entries._key_codec
    given = {name: text for name, text in bounds.items() if text is not None}
    if not given:
        return Span(b"", None, reverse, limit)
    read = key_reader(codec.name, key_type)
    parsed = dict.fromkeys(bounds)
    for name, text in given.items():
        try:
            parsed[name] = read(text) if codec.ordered else None
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=f"--{name}") from error
    try:
        return span_of(codec, **parsed, reverse=reverse, limit=limit)
    except UnorderedKeysError:
        raise
    except TypeError as error:
        raise click.UsageError(told(error)) from error


def _lines(entries: Any, span: Span, values: bool, is_dict: bool, as_json: bool) -> Iterator[bytes]:
    """Yield the entries of an open store as lines: with or without the values."""
    codec, serdes, store = entries._key_codec, entries._serdes.name, entries._store
    if as_json and values:
        line_of = entry_line(codec.name, serdes if is_dict else None)
        return map(line_of, chain.from_iterable(blocks_of(entries, span)))
    write_key = key_writer(codec.name, entries._load_stored_key, "json" if as_json else None)
    if not (values and is_dict):
        return map(write_key, chain.from_iterable(store.all_keys(span)))
    write_value = value_writer(serdes, entries._load_value)
    pairs = chain.from_iterable(store.all_pairs(span))
    return (b"%b\t%b" % (write_key(key), write_value(value)) for key, value in pairs)


def blocks_of(entries: Any, span: Span) -> Iterator[list[Any]]:
    """Yield the stored entries of an open store in blocks: of a set the keys, of a dict pairs."""
    store = entries._store
    return store.all_pairs(span) if isinstance(entries, PatientDict) else store.all_keys(span)  # type: ignore[no-any-return]


def entry_line(key_serdes: str, serdes: str | None) -> Callable[[Any], bytes]:
    """Return what makes a line of a dump of a stored entry. ``serdes``: that of the values; None: of a set."""
    line, key_item = jsonl.line, jsonl.key_item(key_serdes)
    if serdes is None:
        return lambda key: line({"key": key_item(key)})
    value_item = jsonl.value_item(serdes)
    return lambda pair: line({"key": key_item(pair[0]), "value": value_item(pair[1])})
