"""``rack get``, ``has`` and ``count``: what is in a store, key by key. They open it to be read, and never make one."""

from __future__ import annotations

from typing import Any

import click

from rack.cli.arguments import store_argument, timeout_option
from rack.cli.failure import Command, Failure
from rack.cli.keys import Keys, Question, key_arguments
from rack.cli.output import check_open, say
from rack.cli.patience import PatientDict
from rack.cli.scan import span_from
from rack.cli.stores import existing, manifest_of, readable, serdes_of, whatever
from rack.cli.values import key_option, key_reader, value_option, value_writer

EPILOG = "Exit codes: 0 yes, 1 no, 2 wrong usage or any error."


@click.command(cls=Question, epilog=EPILOG)
@store_argument
@key_arguments
@value_option("What the value is written as (default: text for serdes str and bytes, json for json, else literal).")
@timeout_option
@click.pass_context
def get(
    context: click.Context, store: str, key: str | None, key_type: str | None, null: bool, value_type: str | None
) -> None:
    """Write the value that KEY has in STORE, a dict. If it has none, nothing is written, and the exit code is 1.

    In a store whose keys are of serdes "str" or "bytes", KEY is the key itself; in others it is a Python literal, such
    as 5, "'ann'" or "('ann', 5)". --key text takes it as it is, and --key json reads JSON, as "rack keys --json" writes
    it.

    Without KEY, or with "-", keys are read from standard input, one a line. Of each that is there the line, a tab and
    the value are written; the exit code is 1 if any is not.

    "text" writes strings, bytes and numbers without quotes; "json" is JSON, and "literal" a Python literal.

    Example: rack get ages ann --key text
    """
    with existing(store) as entries:
        if not isinstance(entries, PatientDict):
            raise Failure(f"{store} is a set, which has no values: `rack has` tells what is in it")
        write = value_writer(entries._serdes.name, entries._load_value, value_type)

        def values(keys: list[Any]) -> list[bytes | None]:
            return [None if data is None else write(data) for _, data in entries._lookup(keys)]

        found = Keys(key, key_reader(serdes_of(entries)[0], key_type), null).write(values)
    context.exit(0 if found else 1)


@click.command(cls=Question, epilog=EPILOG)
@store_argument
@key_arguments
@timeout_option
@click.pass_context
def has(context: click.Context, store: str, key: str | None, key_type: str | None, null: bool) -> None:
    """Tell by the exit code whether KEY is in STORE: 0 if it is, 1 if it is not.

    Without KEY, or with "-", keys are read from standard input, one a line. Those that are there are written; the exit
    code is 1 if any is not. "rack get --help" says how keys are written.

    Example: if rack has seen https://example.org/; then ...
    """
    with existing(store) as entries:
        keys = Keys(key, key_reader(serdes_of(entries)[0], key_type), null)
        found = keys.ask(lambda keys: list(entries.contains_many(keys)))
    context.exit(0 if found else 1)


@click.command(cls=Command)
@store_argument
@click.option("--prefix", metavar="P", help="Only keys that begin with P.")
@key_option("What P is written as (default: as keys are).")
@timeout_option
def count(store: str, prefix: str | None, key_type: str | None) -> None:
    """Write how many entries STORE has; of a queue, how many jobs are to be done.

    That takes no time, however many they are. With --prefix the keys are read; they must have an order, see "rack scan
    --help".

    Example: rack count seen
    """
    check_open()
    if prefix is None and manifest_of(store).kind == "queue":
        with whatever(store) as jobs:
            say(str(len(jobs)))
        return
    with readable(store) as entries:
        if prefix is None:
            number = len(entries)
        else:
            span = span_from(entries, {"start": None, "stop": None, "prefix": prefix}, key_type)
            number = sum(map(len, entries._store.all_keys(span)))
    say(str(number))
