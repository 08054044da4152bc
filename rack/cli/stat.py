"""``rack stat``: what a store is like."""

from __future__ import annotations

import json

import click

from rack.care.look import look
from rack.cli.arguments import store_argument
from rack.cli.failure import Command
from rack.cli.output import check_open, say
from rack.store.manifest import absolute_path


@click.command(cls=Command)
@store_argument
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, which stays as it is described above.")
@click.option("--prometheus", is_flag=True, help="Print it as metrics, in the text format that Prometheus reads.")
@click.option(
    "--leftovers/--no-leftovers",
    default=True,
    help="Look for what killed processes have left beside the store, or not: that lists its folder.",
)
def stat(store: str, as_json: bool, prometheus: bool, leftovers: bool) -> None:
    """Show what the STORE is like: its size, its shards, who uses it, and what should be done about it.

    Reads little whatever the size of the store is, waits for no writer, changes no file, and needs no more than the
    permission to read. While others write, the shards are looked at one after another.

    \b
    The JSON object has (sizes in bytes, times in seconds since the epoch; null: not known, or there is none)
      name, id, kind, engine, layout, durability, serdes, key_serdes, hash, shards
                         what the store is; "shards" is their number
      entries            how many entries it has
      jobs               of a queue, how many jobs are waiting, delayed, leased, done, failed
      bytes_allocated    what all its files take on the disk
      bytes_apparent     the sum of the lengths of all its files
      bytes_per_entry    bytes_allocated for each entry
      bytes_data         the size of the shards' own files
      bytes_free         how much of these is free; "rack compact" gives it back
      bytes_journal      the size of journals, or write-ahead logs
      bytes_base         the size of the journals' bases
      bytes_unsynced     how much of the journals is not known to be on the disk
      clean              whether all is on the disk, and nobody has written since
      last_sync          when all was known to be on the disk last
      balance            how many shards have less than 0.5, 0.75, 0.9, 1.1, 1.25, 2
                         times the average number of entries, and more
      largest_shard, smallest_shard
                         the ones with the most and the fewest entries, as in per_shard
      per_shard          for each shard an object: number, entries, bytes, bytes_free,
                         bytes_journal, bytes_base, commits (a counter of its commits)
      processes          who has the store open, objects: pid, command, started, mode
                         ("read", "write", or "alone": repairs it, say)
      oldest_snapshot    who reads the oldest state: shard, pids, behind (commits since;
                         on SQLite pages of the log), bytes_held (that cannot be used
                         again until it ends), age_at_most (seconds; that of the process)
      dead_readers       processes that died while they read, and keep space from use
      leftovers          anonymous stores beside it that killed processes have left
      advice             what should be done, sentences

    Example: rack stat data/seen
    """
    if as_json and prometheus:
        raise click.UsageError("--json and --prometheus are two forms of the same: give one of them")
    check_open()
    found = look(store, absolute_path(store), leftovers)
    if as_json:
        say(json.dumps(found.as_dict(), indent=2))
    elif prometheus:
        from rack.cli.prometheus import exposition

        say(exposition(found))
    else:
        from rack.cli.overview import lines

        say(lines(found))
