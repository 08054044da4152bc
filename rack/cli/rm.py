"""``rack rm``: removes stores."""

from __future__ import annotations

import sys

import click

from rack.care.remove import remove
from rack.cli.arguments import alone, complete_store, store_names, timeout_option, wait_option
from rack.cli.failure import Command, counted, tell
from rack.cli.stores import whatever


@click.command(cls=Command)
@click.argument(
    "stores", metavar="STORE...", nargs=-1, required=True, callback=store_names, shell_complete=complete_store
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@wait_option
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def rm(stores: tuple[str, ...], yes: bool, wait: bool, quiet: bool) -> None:
    """Remove the stores STORE..., exactly their files.

    Asks first, on a terminal; elsewhere --yes has to be given. A store that others have open is an error, which says
    who has it open; --wait waits until they have closed it. A store is removed as a whole, or not at all; of several
    stores those before one that cannot be removed are gone.

    Example: rack rm --yes data/seen
    """
    for store in stores:
        if not yes:
            _ask(store)
        alone(wait, lambda: remove(store))  # noqa: B023
    if not quiet:
        tell(f"{counted(len(stores), 'store')} removed")


def _ask(store: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here, as standard input is no terminal: give --yes")
    with whatever(store) as entries:
        what = (
            f"the {entries._kind} {store!r} of {counted(len(entries), 'job' if entries._kind == 'queue' else 'entry')}"
        )
    click.confirm(f"Remove {what}?", abort=True, err=True)
