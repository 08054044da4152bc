"""``rack restore``: makes a store of a backup."""

from __future__ import annotations

import os

import click

from rack.care.increments import restore as restore_backup
from rack.cli.arguments import alone, complete_store, store_name, timeout_option, wait_option
from rack.cli.failure import Command, remember, tell


def _backup(context: click.Context, parameter: click.Parameter, value: str) -> str | None:
    """A store's name, or a directory of backups."""
    if not os.path.isdir(value):
        return store_name(context, parameter, value)
    remember(value)
    return value


@click.command(cls=Command)
@click.argument("backup", metavar="BACKUP", callback=_backup, shell_complete=complete_store)
@click.argument("to", metavar="STORE", callback=store_name, shell_complete=complete_store)
@click.option("--replace", is_flag=True, help="Take the place of a store STORE, which is kept aside.")
@wait_option
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="Do not say where a store that was replaced is.")
def restore(backup: str, to: str, replace: bool, wait: bool, quiet: bool) -> None:
    """Make the store STORE of a backup: it is as it was then.

    BACKUP is a store that "rack backup" has made, or a directory of backups of one store, of which the last one is
    taken. STORE is there as a whole when the command has ended well; before that, nothing has changed.

    Example: rack restore /backups data/seen --replace
    """
    aside = alone(wait, lambda: restore_backup(backup, to, replace=replace))
    if aside is not None and not quiet:
        tell(f"the store that was {to} is {aside} now")
