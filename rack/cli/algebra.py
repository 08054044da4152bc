"""``rack union``, ``intersect``, ``diff`` and ``symdiff``: sets from sets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import click

from rack.algebra import joins
from rack.algebra.sets import Join, Progress, made, streamed
from rack.cli.arguments import (
    complete_store,
    durability_option,
    store_name,
    store_names,
    timeout_option,
    workers_option,
)
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, Failure, counted, tell
from rack.cli.lines import write_lines
from rack.cli.output import check_open
from rack.cli.patience import PatientSet
from rack.cli.stores import are_lines, existing
from rack.cli.values import key_writer


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all four have."""
    for option in (
        with_wish("No progress bar and no summary on standard error."),
        timeout_option,
        durability_option("OUT"),
        workers_option("Make OUT with N processes, which share the shards."),
        click.option("-0", "--null", is_flag=True, help="Lines end with NUL."),
        click.option("-o", "--output", metavar="OUT", callback=store_name, help="Make the set OUT of the elements."),
    ):
        command = option(command)
    return command


_first = click.argument("a", metavar="A", callback=store_name, shell_complete=complete_store)
_second = click.argument("b", metavar="B", callback=store_name, shell_complete=complete_store)
_others = click.argument(
    "others", metavar="B...", nargs=-1, required=True, callback=store_names, shell_complete=complete_store
)


@click.command(cls=Command)
@_first
@_others
@_shared
def union(a: str, others: tuple[str, ...], **options: Any) -> None:
    """Write the elements that are in any of the sets A, B...

    They are written as lines, in order of their bytes, each once; elements of serdes "str" and "bytes" (as "rack dedup"
    makes) as they are, others as Python literals. With -o they become a new store OUT, of the shape of A: it is there
    when the command has ended well, and not before. An existing OUT is an error.

    Sets of serdes "str" and sets of serdes "bytes" go together: an element is the same if the line is, and OUT is of
    serdes "bytes".

    Stores that have as many shards as A and its serdes are read side by side in one pass; others are looked up in, or
    gathered on the disk beside A first. Other processes may use the sets meanwhile.

    Example: rack union yesterday today -o both
    """
    _run(joins.union, a, others, **options)


@click.command(cls=Command)
@_first
@_others
@_shared
def intersect(a: str, others: tuple[str, ...], **options: Any) -> None:
    """Write the elements of the set A that are in all of B... as well.

    As lines, or with -o as a new store OUT; see "rack union --help".

    Example: rack intersect yesterday today
    """
    _run(joins.intersection, a, others, **options)


@click.command(cls=Command)
@_first
@_others
@_shared
def diff(a: str, others: tuple[str, ...], **options: Any) -> None:
    """Write the elements of the set A that are in none of B...

    As lines, or with -o as a new store OUT; see "rack union --help".

    Example: rack diff today yesterday
    """
    _run(joins.difference, a, others, **options)


@click.command(cls=Command)
@_first
@_second
@_shared
def symdiff(a: str, b: str, **options: Any) -> None:
    """Write the elements that are in exactly one of the sets A and B.

    As lines, or with -o as a new store OUT; see "rack union --help".

    Example: rack symdiff yesterday today
    """
    _run(joins.symmetric_difference, a, (b,), **options)


def _run(
    join: Join,
    first: str,
    others: Iterable[str],
    output: str | None,
    null: bool,
    workers: int,
    durability: str | None,
    wish: Wish,
) -> None:
    if output is None:
        if workers > 1:
            raise click.UsageError("--workers is for -o OUT: lines are written by one process")
        if durability is not None:
            raise click.UsageError("--durability is for -o OUT")
        check_open()
    with ExitStack() as stack:
        mine, *theirs = [stack.enter_context(_existing_set(name)) for name in (first, *others)]
        options = {"serdes": "bytes"} if are_lines([mine, *theirs]) else {}
        total = len(mine) + sum(len(other) for other in theirs)
        # The bar and the lines are not to be mixed on one terminal.
        bar = output is not None or not sys.stdout.isatty()
        left = "" if output is None else f"{output} was not made"
        with Counter(wish, "element", "read", left, bar) as show:
            progress = summed(show, total)
            if output is None:
                lines = _lines(mine, streamed(mine, join, theirs, progress))
                count = write_lines(lines, b"\0" if null else b"\n")
            else:
                with made(mine, join, theirs, output, workers, progress, durability=durability, **options) as result:
                    count = len(result)
    if not wish.quiet:
        tell(counted(count, "element") + (f" in {output}" if output is not None else ""))


def _existing_set(name: str) -> PatientSet:
    store = existing(name)
    if not isinstance(store, PatientSet):
        raise Failure(f"{name} is a dict, and this is for sets; `rack compare` is for dicts too")
    return store


def _lines(store: PatientSet, blocks: Iterator[list[bytes]]) -> Iterator[bytes]:
    return map(key_writer(store._key_codec.name, store._load_stored_key), chain.from_iterable(blocks))


def summed(show: Callable[[int, int], None], total: int) -> Progress:
    """Return what shows the sum of the counts that it is told, of ``total``."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        show(min(done, total), total)

    return progress
