"""``rack compare``: do two stores hold the same?"""

from __future__ import annotations

import click

from rack.algebra.compare import Counts
from rack.algebra.compare import compare as compare_stores
from rack.cli.algebra import summed
from rack.cli.arguments import complete_store, store_name, timeout_option, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Failure, Verdict
from rack.cli.output import say
from rack.cli.stores import existing

EQUAL, DIFFERENT = 0, 1


@click.command(cls=Verdict, epilog="Exit codes: 0 equal, 1 different, 2 wrong usage or any error.")
@click.argument("a", metavar="A", callback=store_name, shell_complete=complete_store)
@click.argument("b", metavar="B", callback=store_name, shell_complete=complete_store)
@workers_option("Compare with N processes, which share the shards.")
@timeout_option
@with_wish("Print nothing; the exit code tells.")
@click.pass_context
def compare(context: click.Context, a: str, b: str, workers: int, wish: Wish) -> None:
    """Compare the stores A and B, two sets or two dicts: how many keys are in one only, and how many in both.

    Of dicts it also tells how many of the keys in both have values that differ. Engine, shards and serdes may differ:
    it is what the stores hold that is compared. Stores of as many shards and the same serdes are read side by side,
    others are looked up in, by one process. While other processes write, the numbers are near.

    Example: rack compare yesterday today
    """
    with existing(a) as mine, existing(b) as theirs:
        is_dict = mine._kind == "dict"
        if mine._kind != theirs._kind:
            raise Failure(f"{a} is a {mine._kind} and {b} a {theirs._kind}")
        with Counter(wish, "entry", "compared") as show:
            counts = compare_stores(mine, theirs, workers, summed(show, len(mine) + len(theirs)))
    if not wish.quiet:
        _print(counts, is_dict)
    context.exit(EQUAL if counts.equal else DIFFERENT)


def _print(counts: Counts, is_dict: bool) -> None:
    lines = [f"only in A\t{counts.only_mine}", f"only in B\t{counts.only_theirs}", f"in both\t{counts.both}"]
    if is_dict:
        lines.append(f"with different values\t{counts.different}")
    say("\n".join(lines))
