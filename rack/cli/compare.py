"""``rack compare``: do two stores hold the same?"""

from __future__ import annotations

import sys

import click

from rack.algebra.compare import Counts
from rack.algebra.compare import compare as compare_stores
from rack.cli.algebra import summed
from rack.cli.arguments import store_name
from rack.cli.entrybar import entry_bar
from rack.cli.failure import tell
from rack.cli.stores import existing
from rack.errors import RackError

EQUAL, DIFFERENT, TROUBLE = 0, 1, 2


@click.command(epilog="Exit codes: 0 equal, 1 different, 2 wrong usage or an error.")
@click.argument("a", metavar="A", callback=store_name)
@click.argument("b", metavar="B", callback=store_name)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Compare with N processes, which share the shards.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.pass_context
def compare(context: click.Context, a: str, b: str, workers: int, quiet: bool) -> None:
    """Compare the stores A and B, two sets or two dicts: how many keys are in one only, and how many in both.

    Of dicts it also tells how many of the keys in both have values that differ. Engine, shards and serdes may differ:
    it is what the stores hold that is compared. Stores of as many shards and the same serdes are read side by side,
    others are looked up in, by one process. While other processes write, the numbers are near.
    """
    try:
        with existing(a) as mine, existing(b) as theirs:
            is_dict = mine._kind == "dict"
            if mine._kind != theirs._kind:
                tell(f"{a} is a {mine._kind} and {b} a {theirs._kind}")
                context.exit(TROUBLE)
            with entry_bar(quiet or not sys.stderr.isatty()) as show:
                counts = compare_stores(mine, theirs, workers, summed(show, len(mine) + len(theirs)))
    except (RackError, OSError) as error:
        tell(str(error))
        context.exit(TROUBLE)
    if not quiet:
        _print(counts, is_dict)
    context.exit(EQUAL if counts.equal else DIFFERENT)


def _print(counts: Counts, is_dict: bool) -> None:
    lines = [f"only in A\t{counts.only_mine}", f"only in B\t{counts.only_theirs}", f"in both\t{counts.both}"]
    if is_dict:
        lines.append(f"with different values\t{counts.different}")
    click.echo("\n".join(lines))
