"""Arguments and options that commands share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from rack.care.listing import stores
from rack.cli.failure import remember, tell
from rack.cli.hidden import named
from rack.codec import digest
from rack.codec.serdes import PRESETS
from rack.errors import StoreInUseError, told
from rack.shard import ENGINES, served_by, shard_class
from rack.store.manifest import MAX_SHARDS, is_half_moved, manifest_path, name_problem, stem
from rack.store.record import DURABILITIES

Result = TypeVar("Result")
_PAUSE = 0.1  # seconds

#: What gives a command an option.
Option = Callable[[Callable[..., None]], Callable[..., None]]


def store_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name of a store, which a shell completes to its manifest's: that means the store, too. Or a URL of one.

    :raises click.BadParameter: it is that of a file of another kind, which must have been meant for something else.
    """
    if value is None:  # an option that was not given
        return None
    if served_by(value) is not None:
        try:
            return named(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None
    problem = name_problem(value)
    if problem is not None:
        raise click.BadParameter(f"{value!r} {problem}", context, parameter)
    name = stem(value)
    remember(name)
    if is_half_moved(name):
        from rack.care.alone import finish_move

        finish_move(os.path.abspath(name))
    if os.path.isfile(value) and not os.path.lexists(manifest_path(name)):
        raise click.BadParameter(f"{value!r} is a file, and not a store; {_meant(context, value)}", context, parameter)
    return name


def complete_store(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what a shell offers for the name of a store: stores, or where there are none directories."""
    try:
        found = [name for name in stores(os.path.dirname(incomplete) or ".") if name.startswith(incomplete)]
    except OSError:
        found = []
    return [CompletionItem(name) for name in found] or [CompletionItem(incomplete, type="dir")]


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
store_argument = click.argument("store", callback=store_name, shell_complete=complete_store)


def workers_option(text: str, default: int = 1) -> Option:
    return click.option(
        "--workers", type=click.IntRange(min=1), default=default, show_default=True, metavar="N", help=text
    )


def _set_limit(context: click.Context, parameter: click.Parameter, value: float | None) -> None:
    from rack.cli.patience import patience  # which brings the containers with it

    patience.limit = value


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    expose_value=False,
    callback=_set_limit,
    help="Give up when another process has been in the way for SECONDS (default: wait).",
)


wait_option = click.option(
    "--wait", is_flag=True, help="Wait for others who have the store open, until they have closed it."
)


def alone(wait: bool, action: Callable[[], Result]) -> Result:
    """Do something that needs a store alone; ``wait``: as soon as nobody else has it open."""
    from rack.cli.patience import patience  # which brings the containers with it

    began = time.monotonic()
    is_told = False
    while True:
        try:
            return action()
        except StoreInUseError as error:
            if not wait or (patience.limit is not None and time.monotonic() - began >= patience.limit):
                raise
            if not is_told:
                tell(f"waiting: {told(error)}")
                is_told = True
            time.sleep(_PAUSE)


def durability_option(store: str) -> Option:
    return click.option(
        "--durability",
        type=click.Choice(DURABILITIES),
        help=f'What {store} survives, see README; it stays with the store (default: as it is, "everysec" if new).',
    )


class KeySerdes(click.Choice[str]):
    """The serdes of keys: one that has a name."""

    def __init__(self) -> None:
        super().__init__(sorted((*PRESETS, digest.NAME)))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; behind "digest" the function may follow."""
        if digest.is_named(value):
            try:
                return digest.normalized(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


def shape_options(store: str, default: str, key_default: str | None = None) -> Option:
    """Give a command the options that say what a store that it makes is like. ``default``: what it is without them."""
    presets = click.Choice(sorted(PRESETS))
    default_key = key_default or default

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            durability_option(store),
            click.option(
                "--key-serdes", type=KeySerdes(), help=f"Serdes of the keys of {store} (default: {default_key})."
            ),
            click.option("--serdes", type=presets, help=f"Serdes of {store} (default: {default})."),
            click.option(
                "--shards",
                type=click.IntRange(1, MAX_SHARDS),
                metavar="N",
                help=f"Shards of {store} (default: {default}).",
            ),
            click.option(
                "--engine", type=click.Choice(sorted(ENGINES)), help=f"Engine of {store} (default: {default})."
            ),
        ):
            command = option(command)
        return command

    return decorate
