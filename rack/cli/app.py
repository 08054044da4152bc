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

#: The commands in groups. By name: the module of each, in which it is the object of that name, and the first sentence
#: of its help.
GROUPS = {
    "Make and change": {
        "demo": ("rack.cli.demo", "See Rack at work: several processes fill one set and one dict at once."),
        "dedup": ("rack.cli.dedup", "Write the lines that STORE has not seen, each exactly once."),
        "load": ("rack.cli.load", "Put the entries of FILE into STORE."),
        "copy": ("rack.cli.copy", "Copy the store SRC to a new store DST."),
        "set": ("rack.cli.change", "Set the value of KEY to VALUE in STORE, a dict."),
        "add": ("rack.cli.change", "Add KEY to STORE, a set; or, to a dict, KEY with VALUE, if KEY is not there."),
        "del": ("rack.cli.change", "Remove KEY from STORE."),
        "incr": (
            "rack.cli.change",
            "Add N (default: 1) to the value of KEY in STORE, a dict, and write the new value.",
        ),
    },
    "Ask": {
        "ls": ("rack.cli.ls", "List the stores in the directory DIR."),
        "stat": (
            "rack.cli.stat",
            "Show what the STORE is like: its size, its shards, who uses it, and what should be done about it.",
        ),
        "watch": ("rack.cli.watch", "Show what the STORE is like, again and again, and how much is written to it."),
        "queue": ("rack.cli.queue", "Show how many jobs STORE, a queue, has in each state, and which have failed."),
        "count": ("rack.cli.ask", "Write how many entries STORE has; of a queue, how many jobs are to be done."),
        "get": ("rack.cli.ask", "Write the value that KEY has in STORE, a dict."),
        "has": ("rack.cli.ask", "Tell by the exit code whether KEY is in STORE: 0 if it is, 1 if it is not."),
        "keys": ("rack.cli.scan", "Write the keys of STORE, or the elements of a set, a line each."),
        "items": ("rack.cli.scan", "Write the entries of STORE, a dict, a line each: the key, a tab, the value."),
        "scan": (
            "rack.cli.scan",
            "Write the entries of STORE in order of their keys: of a set the"
            " elements, of a dict the key, a tab, the value.",
        ),
        "compare": (
            "rack.cli.compare",
            "Compare the stores A and B, two sets or two dicts: how many keys are in one only, and how many in both.",
        ),
    },
    "Combine": {
        "union": ("rack.cli.algebra", "Write the elements that are in any of the sets A, B..."),
        "intersect": ("rack.cli.algebra", "Write the elements of the set A that are in all of B... as well."),
        "diff": ("rack.cli.algebra", "Write the elements of the set A that are in none of B..."),
        "symdiff": ("rack.cli.algebra", "Write the elements that are in exactly one of the sets A and B."),
    },
    "Care": {
        "verify": ("rack.cli.verify", "Verify the STORE: report everything that is wrong with it."),
        "repair": (
            "rack.cli.repair",
            "Make a new store of what can be read of the damaged STORE, which is left as it is.",
        ),
        "compact": ("rack.cli.compact", "Give the disk back what is free in the files of STORE."),
        "reshard": ("rack.cli.reshard", "Cut the store STORE into N shards."),
    },
    "Move": {
        "mv": ("rack.cli.mv", "Give the store STORE the name NEW."),
        "rm": ("rack.cli.rm", "Remove the stores STORE..., exactly their files."),
        "backup": ("rack.cli.backup", "Back up the store SRC, as it is at one instant, to a new store DST."),
        "restore": ("rack.cli.restore", "Make the store STORE of a backup: it is as it was then."),
        "dump": ("rack.cli.dump", "Write all of STORE to FILE, or to standard output."),
    },
}
COMMANDS = {name: found for group in GROUPS.values() for name, found in group.items()}


class _Modules(Mapping[str, click.Command]):
    """The commands, each imported when it is asked for: ``rack --help`` needs none."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = COMMANDS[name]
        found = vars(import_module(module))
        command: click.Command = found.get(name) or found[f"{name}_"]  # `del` is no name in Python
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
        for group, commands in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()], col_max=12)


@click.group(
    cls=Commands,
    commands=_Modules(),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage; where 1 is an answer (add, compare, del, get, has, repair,"
    " verify) every error is 2. 130 and 141 (as the shell shows them) when Ctrl-C or a closed pipe ended it.",
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
            words = list(sys.argv[1:] if args is None else args)
            if any("://" in word for word in words):
                from rack.cli.hidden import hidden

                words = list(map(hidden, words))
            code = app.main(words, prog_name="rack", standalone_mode=False)
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
