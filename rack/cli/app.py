"""The group of commands, and what every command has in common: its errors and its ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from rack import __version__
from rack.cli.failure import failing, forget
from rack.cli.signals import Stopped, guard

#: The commands by name: the module of each, in which it is the object of that name, and the first sentence of its help.
COMMANDS = {
    "backup": ("rack.cli.backup", "Back up the store SRC, as it is at one instant, to a new store DST."),
    "compare": (
        "rack.cli.compare",
        "Compare the stores A and B, two sets or two dicts: how many keys are in one only, and how many in both.",
    ),
    "copy": ("rack.cli.copy", "Copy the store SRC to a new store DST."),
    "dedup": ("rack.cli.dedup", "Write the lines that STORE has not seen, each exactly once."),
    "demo": ("rack.cli.demo", "See Rack at work: several processes fill one set and one dict at once."),
    "diff": ("rack.cli.algebra", "Write the elements of the set A that are in none of B..."),
    "intersect": ("rack.cli.algebra", "Write the elements of the set A that are in all of B... as well."),
    "repair": (
        "rack.cli.repair",
        "Make a new store of what can be read of the damaged STORE, which is left as it is.",
    ),
    "scan": (
        "rack.cli.scan",
        "Write the entries of STORE in order of their keys:"
        " of a set the elements, of a dict the key, a tab, the value.",
    ),
    "symdiff": ("rack.cli.algebra", "Write the elements that are in exactly one of the sets A and B."),
    "union": ("rack.cli.algebra", "Write the elements that are in any of the sets A, B..."),
    "verify": ("rack.cli.verify", "Verify the STORE: report everything that is wrong with it."),
}


class _Modules(Mapping[str, click.Command]):
    """The commands, each imported when it is asked for: ``rack --help`` needs none."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = COMMANDS[name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(click.Group):
    """A group of commands. What they do with errors is theirs (``rack.cli.failure.Command``)."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with failing(1):  # --help writes, too
            return super().make_context(*args, **extra)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        texts = {name: click.Command(name, help=text).get_short_help_str(limit) for name, (_, text) in COMMANDS.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(texts.items()))


@click.group(
    cls=Commands,
    commands=_Modules(),
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


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a signal or a closed pipe ends the process."""
    forget()
    digits = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)  # stores hold ints of any size, and here they are written out
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
    finally:
        sys.set_int_max_str_digits(digits)
