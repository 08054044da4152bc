"""``rack reshard``: cuts a store into another number of shards."""

from __future__ import annotations

import click

from rack.care.reshard import reshard as reshard_store
from rack.cli.arguments import alone, store_argument, timeout_option, wait_option, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Command, counted, tell
from rack.cli.stores import count_of
from rack.store.manifest import MAX_SHARDS


@click.command(cls=Command)
@store_argument
@click.argument("shards", metavar="N", type=click.IntRange(1, MAX_SHARDS))
@workers_option("Do it with N processes, each for a part that has no keys in common with the others.")
@wait_option
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def reshard(store: str, shards: int, workers: int, wait: bool, wish: Wish) -> None:
    """Cut the store STORE into N shards.

    More shards let more processes write at once; fewer take fewer files and descriptors. The disk has to have room for
    the store twice. Whenever the command is interrupted, there is the store with the old shards or with the new ones.
    A store that others have open is an error, which says who has it open; --wait waits until they have closed it. Who
    opens the store meanwhile waits. On servers nobody is kept from it: what is written
    meanwhile may be lost.

    Example: rack reshard data/seen 32 --workers 2
    """
    with Counter(wish, "entry", "written", f"{store} is as it was") as show:
        total = count_of(store)
        entries = alone(
            wait, lambda: reshard_store(store, shards, workers=workers, progress=lambda done: show(done, total))
        )
    if not wish.quiet:
        tell(f"{counted(entries, 'entry')} in {counted(shards, 'shard')}")
