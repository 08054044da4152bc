"""``rack watch``: what a store is like, again and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from rack.care.words import size
from rack.cli.arguments import store_argument
from rack.cli.failure import Command, counted
from rack.cli.output import check_open, say
from rack.cli.rates import Sight
from rack.cli.screen import Screen

if TYPE_CHECKING:
    from rich.console import Group

_SHARDS = 32  # that are listed: those that are written to most


@click.command(cls=Command)
@store_argument
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Look at it every S seconds.",
)
def watch(store: str, interval: float) -> None:
    """Show what the STORE is like, again and again, and how much is written to it.

    On a terminal it shows the table of "rack stat", and how many commits a second each shard gets: one for each
    operation on a key, one for each block of a bulk operation. Off a terminal it writes a line at each look. A look
    waits for no writer and changes no file, as "rack stat". It ends by Ctrl-C.

    LMDB counts the commits to a shard. SQLite does so while the store is open; when it is opened anew, the rate is not
    known once.

    Example: rack watch data/seen --interval 10
    """
    check_open()
    sight = Sight.of(store, None)
    with Screen() as screen:
        next_look = time.monotonic()
        while True:
            if screen.is_terminal:
                screen.show(_picture(sight))
            else:
                say(_line(sight))
            next_look = max(next_look + interval, time.monotonic())
            time.sleep(max(0.0, next_look - time.monotonic()))
            sight = Sight.of(store, sight)


def _line(sight: Sight) -> str:
    stat = sight.stat
    users = "" if stat.processes is None else f", open in {counted(len(stat.processes), 'process')}"
    return (
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} {counted(stat.entries, 'entry')} ({_signed(sight.entries)}),"
        f" {_rate(sight.all_commits)} commits/s, {size(stat.bytes_allocated)}, {size(stat.bytes_free)} free{users}"
    )


def _rate(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:,.0f}"


def _signed(rate: float | None) -> str:
    return "?/s" if rate is None else f"{rate:+,.0f}/s"


def _picture(sight: Sight) -> Group:
    from rich.console import Group
    from rich.table import Table

    from rack.cli.overview import overview

    rates = Table("shard", "entries", "commits/s", box=None, padding=(0, 2, 0, 0))
    for column in rates.columns:
        column.justify = "right"
    rates.add_row("all", f"{sight.stat.entries:,}", f"{_rate(sight.all_commits)} ({_signed(sight.entries)} entries)")
    numbers = sorted(range(sight.stat.shards), key=lambda number: -(sight.commits[number] or 0))[:_SHARDS]
    most = max((sight.commits[number] or 0.0 for number in numbers), default=0.0)
    for number in sorted(numbers):
        rate = sight.commits[number]
        bar = "#" * round(20 * rate / most) if rate and most else ""
        rates.add_row(str(number), f"{sight.stat.per_shard[number].entries:,}", f"{bar:<20} {_rate(rate):>9}")
    return Group(time.strftime("%Y-%m-%d %H:%M:%S"), overview(sight.stat), "", rates)
