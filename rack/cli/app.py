"""The group of commands, and what every command has in common: its errors and its ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from rack import __version__
from rack.cli.algebra import diff, intersect, symdiff, union
from rack.cli.backup import backup
from rack.cli.compare import compare
from rack.cli.copy import copy
from rack.cli.dedup import dedup
from rack.cli.demo import demo
from rack.cli.failure import failing, forget
from rack.cli.repair import repair
from rack.cli.scan import scan
from rack.cli.signals import Stopped, guard
from rack.cli.verify import verify


class Commands(click.Group):
    """A group of commands. What they do with errors is theirs (``rack.cli.failure.Command``)."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with failing(1):  # --help writes, too
            return super().make_context(*args, **extra)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage; where 1 is an answer (compare, repair, verify) every error"
    " is 2. 130 and 141 (as the shell shows them) when Ctrl-C or a closed pipe ended it.",
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
    forget()
    try:
        with guard:
            code = app.main(None if args is None else list(args), prog_name="rack", standalone_mode=False)
            return code if isinstance(code, int) else 0
    except click.ClickException as error:
        with suppress(OSError):  # that nobody can read it
            error.show()
        return error.exit_code
    except click.Abort:
        return 1
    except Stopped as stopped:
        stopped.die()
