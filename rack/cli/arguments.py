"""Arguments and options that commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import click

from rack.cli.failure import remember
from rack.cli.patience import patience
from rack.shard import ENGINES, shard_class
from rack.store.manifest import manifest_path, name_problem, stem
from rack.store.record import DURABILITIES

#: What gives a command an option.
Option = Callable[[Callable[..., None]], Callable[..., None]]


def store_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name of a store, which a shell completes to its manifest's: that means the store, too.

    :raises click.BadParameter: it is that of a file of another kind, which must have been meant for something else.
    """
    if value is None:  # an option that was not given
        return None
    problem = name_problem(value)
    if problem is not None:
        raise click.BadParameter(f"{value!r} {problem}", context, parameter)
    name = stem(value)
    remember(name)
    if os.path.isfile(value) and not os.path.lexists(manifest_path(name)):
        raise click.BadParameter(f"{value!r} is a file, and not a store; {_meant(context, value)}", context, parameter)
    return name


def store_names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(store_name(context, parameter, value) for value in values)


def _meant(context: click.Context, file: str) -> str:
    """Return what was probably meant by a file in the place of a store."""
    suffixes = "|".join(re.escape(shard_class(engine).suffix) for engine in ENGINES)
    found = re.fullmatch(rf"(?s)(.+?)(?:-\d{{4}}(?:{suffixes}).*|\.rack-.+)", file)
    if found is not None and os.path.lexists(manifest_path(found[1])):
        return f"it belongs to the store {found[1]!r}"
    if context.info_name == "dedup":
        return f"to read its lines, name a store first: rack dedup STORE {file}"
    return "a store is named by what the names of its files begin with: 'data/seen' is data/seen.rack and others"


#: The STORE of a command.
store_argument = click.argument("store", callback=store_name)


def workers_option(text: str, default: int = 1) -> Option:
    return click.option(
        "--workers", type=click.IntRange(min=1), default=default, show_default=True, metavar="N", help=text
    )


def _set_limit(context: click.Context, parameter: click.Parameter, value: float | None) -> None:
    patience.limit = value


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    expose_value=False,
    callback=_set_limit,
    help="Give up when another process has been in the way for SECONDS (default: wait).",
)


def durability_option(store: str) -> Option:
    return click.option(
        "--durability",
        type=click.Choice(DURABILITIES),
        help=f'What {store} survives, see README; it stays with the store (default: as it is, "everysec" if new).',
    )
