"""``rack scan``: the entries of a store in order of their keys, all of them or a range, as lines."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from typing import Any

import click

from rack import PersistentDict
from rack.cli.arguments import store_argument, timeout_option
from rack.cli.failure import Command
from rack.cli.lines import write_lines, writer
from rack.cli.output import check_open
from rack.cli.stores import existing
from rack.errors import UnorderedKeysError, told


@click.command(cls=Command)
@store_argument
@click.option("--prefix", metavar="P", help="Only keys that begin with P.")
@click.option("--start", metavar="S", help="Only keys from S on.")
@click.option("--stop", metavar="E", help="Only keys before E.")
@click.option("--reverse", is_flag=True, help="From the last to the first.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N; with --reverse the last ones.")
@click.option("-0", "--null", is_flag=True, help="Lines end with NUL.")
@timeout_option
def scan(
    store: str, prefix: str | None, start: str | None, stop: str | None, reverse: bool, limit: int | None, null: bool
) -> None:
    """Write the entries of STORE in order of their keys: of a set the elements, of a dict the key, a tab, the value.

    The keys must have an order: serdes (or key_serdes) "str", "bytes" or "ordered". A store of another serdes can be
    copied to one: "rack copy STORE NEW --serdes ordered".

    P, S and E are written as the keys are. In a store of "str" or "bytes" (as "rack dedup" makes) a key is the line
    itself, and P is any beginning of it. In an "ordered" store keys are Python literals, so that 5, '5' and b'5' are
    told apart; P is a string, or a tuple for the tuples that begin with its elements: --prefix "('ann', 5)".

    Values of serdes "str" and "bytes" are written as they are, of "json" as JSON, of others as Python literals. Use
    --null where keys or values may have line ends in them.

    A closed pipe (as in "| head") ends the command quietly.
    """
    check_open()
    with existing(store) as entries:
        parse = _PARSERS.get(entries._key_codec.name, _PARSERS["str"])  # scan() refuses others
        bounds = {"start": start, "stop": stop, "prefix": prefix}
        given = {name: parse(f"--{name}", text) for name, text in bounds.items() if text is not None}
        try:
            found = entries.scan(**given, reverse=reverse, limit=limit)
        except UnorderedKeysError:
            raise
        except TypeError as error:
            raise click.UsageError(told(error)) from error
        write_key = writer(entries._key_codec.name)
        lines: Iterator[bytes]
        if isinstance(entries, PersistentDict):
            write_value = writer(entries._serdes.name)
            lines = (b"%b\t%b" % (write_key(key), write_value(value)) for key, value in found)
        else:
            lines = map(write_key, found)
        write_lines(lines, b"\0" if null else b"\n")


def _literal(option: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise click.BadParameter(
            f"{text!r} is no Python literal, such as 5, 'text' or ('ann', 5), as keys of this store are written",
            param_hint=option,
        ) from error


#: How a bound is read, by the key codec.
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "str": lambda option, text: text,
    "bytes": lambda option, text: os.fsencode(text),
    "ordered": _literal,
}
