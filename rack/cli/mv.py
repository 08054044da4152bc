"""``rack mv``: gives a store another name."""

from __future__ import annotations

import os

import click

from rack.care.rename import rename
from rack.cli.arguments import alone, complete_store, store_argument, store_name, timeout_option, wait_option
from rack.cli.failure import Command, tell
from rack.shard import served_by


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

    A NEW that is a directory is an error: the name there is to be given as well. On servers both are URLs of the same
    ones; who has the store open goes on using it.

    Example: rack mv data/seen data/seen-2024
    """
    if served_by(to) is None and os.path.isdir(to):
        raise click.UsageError(
            f"{to} is a directory: to move the store into it, give its name there as well, as in"
            f" {os.path.join(to, os.path.basename(store) if served_by(store) is None else 'NAME')}"
        )
    aside = alone(wait, lambda: rename(store, to, replace=replace))
    if aside is not None and not quiet:
        tell(f"the store that was {to} is {aside} now")
