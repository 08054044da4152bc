"""``rack set``, ``add``, ``del`` and ``incr``: changes of single keys, each atomic."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import chain
from typing import Any

import click

from rack.cli.arguments import shape_options, store_argument, timeout_option
from rack.cli.ask import EPILOG
from rack.cli.failure import Failure
from rack.cli.keys import Change, Keys, Question, key_arguments, word_of
from rack.cli.output import check_open, say
from rack.cli.patience import PatientDict, PatientSet
from rack.cli.scan import span_from
from rack.cli.stores import CLASSES, existing, serdes_of
from rack.cli.values import VALUE_HELP, key_reader, reader, value_option, value_writer
from rack.codec.failure import in_short
from rack.errors import SerializationError, StoreNotFoundError, told


def _making(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options with which it may make its store."""
    for option in (
        timeout_option,
        shape_options("a new STORE", "as in Python"),
        click.option("--create", is_flag=True, help="Make STORE if it does not exist."),
    ):
        command = option(command)
    return command


@click.command("set", cls=Change)
@store_argument
@key_arguments
@click.argument("value", metavar="VALUE")
@value_option(VALUE_HELP)
@_making
def set_(
    store: str,
    key: str,
    value: str,
    key_type: str | None,
    null: bool,
    value_type: str | None,
    create: bool,
    **shape: Any,
) -> None:
    """Set the value of KEY to VALUE in STORE, a dict.

    "rack get --help" says how KEY and VALUE are written: in a store of the default serdes as Python literals. With "-"
    for KEY, keys are read from standard input, one a line, and all get VALUE; "rack load" sets keys to values of their
    own.

    A STORE that does not exist is an error; with --create it is made, a dict.

    Example: rack set ages ann 31 --key text --create
    """
    entries = _changed_dict(store, create, shape)
    key_serdes, serdes = serdes_of(entries)
    new = word_of(reader(serdes, value_type), value, "VALUE")
    keys = Keys(key, key_reader(key_serdes, key_type), null)
    with entries:
        for _, chunk in keys.chunks() if keys.are_many else [((), [keys.one])]:
            entries.update((each, new) for each in chunk)


@click.command(cls=Question, epilog=EPILOG)
@store_argument
@key_arguments
@click.argument("value", metavar="[VALUE]", required=False)
@value_option(VALUE_HELP)
@_making
@click.pass_context
def add(
    context: click.Context,
    /,
    store: str,
    key: str | None,
    value: str | None,
    key_type: str | None,
    null: bool,
    value_type: str | None,
    create: bool,
    **shape: Any,
) -> None:
    """Add KEY to STORE, a set; or, to a dict, KEY with VALUE, if KEY is not there. If it is there, the exit code is 1.

    Of all processes that add a key at once, exactly one gets exit code 0.

    Without KEY, or with "-", keys are read from standard input, one a line. Those that are new are written; the exit
    code is 1 if any is not. "rack get --help" says how keys and values are written.

    A STORE that does not exist is an error; with --create it is made: a dict if there is a VALUE, else a set.

    Example: rack add jobs "'job 5'" && ./run-job-5
    """
    entries = _changed(store, "set" if value is None else "dict", create, shape)
    if isinstance(entries, PatientDict) and value is None:
        raise Failure(f"{store} is a dict, whose keys have values: rack add {store} KEY VALUE")
    if isinstance(entries, PatientSet) and value is not None:
        raise Failure(f"{store} is a set, which has no values: rack add {store} KEY")
    key_serdes, serdes = serdes_of(entries)
    new = () if value is None else (word_of(reader(serdes, value_type), value, "VALUE"),)
    keys = Keys(key, key_reader(key_serdes, key_type), null)
    with entries:
        found = keys.ask(lambda keys: [entries.add(each, *new) for each in keys])
    context.exit(0 if found else 1)


@click.command("del", cls=Question, epilog=EPILOG)
@store_argument
@key_arguments
@click.option("--prefix", metavar="P", help="Remove all keys that begin with P.")
@timeout_option
@click.pass_context
def del_(
    context: click.Context, store: str, key: str | None, key_type: str | None, null: bool, prefix: str | None
) -> None:
    """Remove KEY from STORE. If it is not there, the exit code is 1.

    Of all processes that remove a key at once, exactly one gets exit code 0.

    Without KEY, or with "-", keys are read from standard input, one a line. Those that were there are written; the exit
    code is 1 if any was not. "rack get --help" says how keys are written.

    With --prefix all keys that begin with P are removed, in blocks, and what is written is how many they were; the exit
    code is 1 if there was none. The keys must have an order, see "rack scan --help".

    Example: rack del seen --prefix https://example.org/
    """
    if prefix is not None and key is not None:
        raise click.UsageError("KEY and --prefix are two ways to say what to remove: give one")
    with existing(store, "w") as entries:
        if prefix is not None:
            found = _delete_range(entries, prefix, key_type)
        else:
            keys = Keys(key, key_reader(serdes_of(entries)[0], key_type), null)
            found = keys.ask(lambda keys: [entries._delete_each([each]) > 0 for each in keys])
    context.exit(0 if found else 1)


def _delete_range(entries: PatientDict | PatientSet, prefix: str, key_type: str | None) -> bool:
    check_open()
    span = span_from(entries, {"start": None, "stop": None, "prefix": prefix}, key_type)
    removed = entries._store.delete_all(chain.from_iterable(entries._store.all_keys(span)))
    say(str(removed))
    return removed > 0


@click.command(cls=Change)
@store_argument
@key_arguments
@click.argument("number", metavar="[N]", default="1")
@_making
def incr(
    store: str, key: str | None, number: str, key_type: str | None, null: bool, create: bool, **shape: Any
) -> None:
    """Add N (default: 1) to the value of KEY in STORE, a dict, and write the new value.

    A KEY that is new begins with 0. No increment by any process is lost. N may be negative, or a float.

    Without KEY, or with "-", keys are read from standard input, one a line. Of each the line, a tab and the new value
    are written. "rack get --help" says how keys are written.

    A STORE that does not exist is an error; with --create it is made, a dict.

    Example: cut -d' ' -f1 access.log | rack incr hits --key text --create
    """
    entries = _changed_dict(store, create, shape)
    delta = word_of(_number, number, "N")
    keys = Keys(key, key_reader(serdes_of(entries)[0], key_type), null)
    with entries:
        write = value_writer(entries._serdes.name, entries._load_value)

        def more(key: Any) -> bytes:
            try:
                return write(entries._dump_value(entries.incr(key, delta)))
            except SerializationError:
                raise
            except TypeError as error:
                raise Failure(f"the value of {in_short(key)} is no number ({error})") from error

        keys.write(lambda keys: list(map(more, keys)))


def _changed_dict(store: str, create: bool, shape: dict[str, Any]) -> Any:
    entries = _changed(store, "dict", create, shape)
    if not isinstance(entries, PatientDict):
        raise Failure(f"{store} is a set, which has no values: `rack add` adds to it")
    return entries


def _changed(store: str, kind: str, create: bool, shape: dict[str, Any]) -> Any:
    """Return the container of a store that is to be changed, not open. A new one is of that kind."""
    options = {name: value for name, value in shape.items() if value is not None}
    if options and not create:
        raise click.UsageError(f"--{next(iter(options)).replace('_', '-')} is for --create")
    try:
        entries = existing(store, "w", **options)
    except StoreNotFoundError as error:
        if not create:
            raise Failure(f"{told(error)}; --create makes one") from error
        return CLASSES[kind](store, **options)
    return entries


def _number(text: str) -> Any:
    try:
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        number = None
    if type(number) not in (int, float, complex):
        raise ValueError(f"{text!r} is no number")
    return number
