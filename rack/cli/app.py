"""The group of commands, and what every command has in common: its errors and its ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from rack import RackError, __version__
from rack.cli.algebra import diff, intersect, symdiff, union
from rack.cli.backup import backup
from rack.cli.compare import compare
from rack.cli.copy import copy
from rack.cli.dedup import dedup
from rack.cli.demo import demo
from rack.cli.failure import Failure
from rack.cli.repair import repair
from rack.cli.scan import scan
from rack.cli.signals import Stopped, guard
from rack.cli.verify import verify


class Commands(click.Group):
    """A group whose commands' expected errors are one line on standard error and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RackError, OSError) as error:
            raise Failure.of(error) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage; 130 and 141 (as the shell shows them) when Ctrl-C or a"
    " closed pipe ended it.",
)
@click.version_option(__version__, prog_name="rack", message="%(prog)s %(version)s")
def app() -> None:
    """Persistent sets and dicts that many processes share.

    Start with "rack demo". A STORE is a path prefix: the store "data/seen" is the files data/seen.rack,
    data/seen-0000.lmdb and so on; data/seen.rack means it too.
    """


app.add_command(backup)
app.add_command(copy)
app.add_command(dedup)
app.add_command(demo)
app.add_command(repair)
app.add_command(scan)
for _command in (union, intersect, diff, symdiff, compare, verify):
    app.add_command(_command)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a signal or a closed pipe ends the process."""
    try:
        with guard:
            app.main(args=None if args is None else list(args), prog_name="rack")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stopped as stopped:
        stopped.die()
    return 0
