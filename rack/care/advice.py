"""What should be done about a store, in sentences."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rack.care.stat import OldestSnapshot, Stat
from rack.care.words import duration, size

FREE = 0.4  # of the shards' files, from which on compacting is advised
MUCH = 16 << 20  # bytes that are worth a sentence
_FEW_ENTRIES = 1000  # in a shard, with which chance makes them differ
_UNEQUAL = 1.5


def advice(stat: Stat, needs_recovery: bool) -> Iterator[str]:
    """Yield sentences about a store, each of which says what to do."""
    name = shlex.quote(stat.name)
    if needs_recovery:
        yield (
            "it was in use when the system stopped, or its record is lost: who opens it next recovers it, and the"
            " figures may change"
        )
    if stat.bytes_free >= max(MUCH, FREE * stat.bytes_data):
        yield f"{100 * stat.bytes_free / stat.bytes_data:.0f} % of the files is free space: rack compact {name}"
    if stat.oldest_snapshot is not None and (stat.oldest_snapshot.bytes_held or 0) >= MUCH:
        yield _of_snapshot(stat, stat.oldest_snapshot)
    largest, average = stat.largest_shard, stat.entries / stat.shards
    if average >= _FEW_ENTRIES and largest.entries > _UNEQUAL * average:
        yield (
            f"the shards are unbalanced: shard {largest.number} has {largest.entries / average:.1f} times the average"
            f" number of entries: rack reshard {name} {2 * stat.shards}"
        )
    if stat.dead_readers:
        yield (
            f"{len(stat.dead_readers)} dead {'reader keeps' if len(stat.dead_readers) == 1 else 'readers keep'} space"
            " from being used again: who opens the store for writing next removes that"
        )
    if stat.leftovers:
        names = [shlex.quote(left) for left in stat.leftovers]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"leftovers of killed processes: {', '.join(names[:3])}{more}: rack rm {' '.join(names[:3])}"


def _of_snapshot(stat: Stat, snapshot: OldestSnapshot) -> str:
    commands = {user.pid: user.command for user in stat.processes or ()}
    pids = ", ".join(str(pid) for pid in snapshot.pids)
    command = commands.get(snapshot.pids[0])
    who = f"process{'es' if len(snapshot.pids) > 1 else ''} {pids}{f' ({command[:60]})' if command else ''}"
    since = "" if snapshot.age_at_most is None else f", for {duration(snapshot.age_at_most)} at most"
    return (
        f"a snapshot, or a long read, of {who} holds {size(snapshot.bytes_held or 0)} of space{since}: it can be used"
        " again when that is closed"
    )
