"""``rack mv``: gives a store another name."""

from __future__ import annotations

import click

from rack.care.rename import rename
from rack.cli.arguments import alone, complete_store, store_argument, store_name, timeout_option, wait_option
from rack.cli.failure import Command, tell


@click.command(cls=Command)
@store_argument
@click.argument("to", metavar="NEW", callback=store_name, shell_complete=complete_store)
@click.option("--replace", is_flag=True, help="Take the place of a store NEW, which is kept aside.")
@wait_option
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="Do not say where a store that was replaced is.")
def mv(store: str, to: str, replace: bool, wait: bool, quiet: bool) -> None:
    """Give the store STORE the name NEW.

    That may be in another directory, and on another file system. With --replace it takes the place of a store NEW. So
    "rack repair seen" and "rack mv --replace seen-repaired seen" put what could be saved in the place of a damaged
    store, which is kept as seen-old (or seen-old-2 and so on).

    A store that others have open is an error, which says who has it open; --wait waits until they have closed it. The
    store has the old name or the new one, as a whole, whenever the command is interrupted.

    Example: rack mv data/seen data/seen-2024
    """
    aside = alone(wait, lambda: rename(store, to, replace=replace))
    if aside is not None and not quiet:
        tell(f"the store that was {to} is {aside} now")
