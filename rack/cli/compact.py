"""``rack compact``: gives the disk back what is free in a store's files."""

from __future__ import annotations

import json

import click

from rack.care.compact import compact as compact_store
from rack.care.words import size
from rack.cli.arguments import alone, store_argument, timeout_option, wait_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, counted
from rack.cli.output import say
from rack.cli.stores import count_of


@click.command(cls=Command)
@store_argument
@wait_option
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@with_wish("Print nothing.")
def compact(store: str, wait: bool, as_json: bool, wish: Wish) -> None:
    """Give the disk back what is free in the files of STORE.

    Its shards are written anew, one after the other. The disk has to have room for one shard more. Each shard is
    replaced at once: whenever the command is interrupted, the store is whole. A store that others have open is an
    error, which says who has it open; --wait waits until they have closed it. Who opens the store meanwhile waits.

    The JSON object has "name", "entries", and "before" and "after": bytes of disk that the shards take.

    Example: rack compact data/seen
    """
    with Counter(wish, "entry", "written", "shards that were not done are as they were") as show:
        total = count_of(store)
        done = alone(wait, lambda: compact_store(store, progress=lambda entries: show(entries, total)))
    if as_json:
        say(json.dumps(done.as_dict(), indent=2))
    elif not wish.quiet:
        part = f", {100 - 100 * done.after / done.before:.0f} % less" if done.after < done.before else ""
        say(f"{counted(done.entries, 'entry')}: {size(done.before)} before, {size(done.after)} after{part}")
