"""What a store is like, in figures: what ``rack.stat`` returns and ``rack stat`` prints."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from rack.jobs.job import Counts
from rack.store.manifest import Manifest

#: The bounds of the classes of ``Stat.balance``: a shard's entries, as a multiple of the average.
BALANCE = (0.5, 0.75, 0.9, 1.1, 1.25, 2.0)


@dataclass(frozen=True, slots=True)
class ShardStat:
    """What a shard is like: one of the ``per_shard`` of a :class:`Stat`. Sizes are in bytes."""

    #: The number of the shard.
    number: int
    #: How many entries it has.
    entries: int
    #: The size of its own file, without journal, base and locks.
    bytes: int
    #: How much of that file is free: pages that are free again, and its end, if that was never used.
    bytes_free: int
    #: The size of its journals; on SQLite, of its write-ahead log.
    bytes_journal: int
    #: The size of the journals' bases.
    bytes_base: int
    #: A counter of its commits, of which only the difference of two looks says something. On SQLite it begins anew when
    #: a process opens the store that nobody has open. None: not known.
    commits: int | None


@dataclass(frozen=True, slots=True)
class User:
    """A process that has the store open: one of the ``processes`` of a :class:`Stat`."""

    pid: int
    #: Its command line; None: not known, because it belongs to somebody else, say.
    command: str | None
    #: "write", "read", or "alone": it makes, replaces, repairs or verifies the store, or is just closing it.
    mode: str
    #: When it was started, in seconds since the epoch. None: not known.
    started: float | None


@dataclass(frozen=True, slots=True)
class OldestSnapshot:
    """Who reads the oldest state of the store, in the shard in which that keeps the most: a snapshot, or a long read.

    LMDB and SQLite do not note when somebody has begun to read. What they tell is how much was written since.
    """

    #: The number of the shard.
    shard: int
    #: The processes that read it. They may have ended: see ``dead_readers``.
    pids: tuple[int, ...]
    #: How much was written to that shard since: on LMDB so many commits, on SQLite so many pages of the log.
    behind: int
    #: How many bytes of all shards cannot be used again until that ends; at least. None: not known.
    bytes_held: int | None
    #: For how many seconds it has been there, at most: that is how old the oldest of the processes is. None: not known.
    age_at_most: float | None


@dataclass(frozen=True, slots=True)
class Stat:
    """What :func:`rack.stat` tells of a store. Sizes are in bytes, times in seconds since the epoch.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "looked-at", shards=4) as seen:
    ...     seen.update(range(100))
    ...     found = seen.stat()
    >>> found.kind, found.shards, found.entries, sum(found.balance), found.as_dict()["entries"]
    ('set', 4, 100, 4, 100)
    """

    #: The store, as it was given.
    name: str
    #: The id of the store, which no other one has.
    id: str
    #: "dict", "set" or "queue". The entries of a queue are records, of which a job has one or two: see :attr:`jobs`.
    kind: str
    #: "lmdb", "sqlite3" or "redis".
    engine: str
    #: "direct", "small" for ``rack.set_small``, or as the URL of a store on servers says.
    layout: str
    #: The least with which the store was used: "process", "everysec" or "always".
    durability: str
    #: The names of what the store was made with.
    serdes: str
    key_serdes: str
    hash: str
    #: How many shards it has.
    shards: int
    #: How many entries it has.
    entries: int
    #: Of a queue, how many jobs are in each state. None: it is no queue, or it is not known.
    jobs: Counts | None
    #: How much its files take on the disk; on servers, the memory that it takes there, about. So it is with the others.
    bytes_allocated: int
    #: The sum of the lengths of its files. It is more if they have holes.
    bytes_apparent: int
    #: ``bytes_allocated`` for each entry. None: there are no entries.
    bytes_per_entry: float | None
    #: The size of the shards' own files, without journals, bases and locks.
    bytes_data: int
    #: How much of ``bytes_data`` is free: what is written next takes that first, and ``rack compact`` gives it back.
    bytes_free: int
    #: The size of journals (LMDB with "everysec") or write-ahead logs (SQLite).
    bytes_journal: int
    #: The size of the journals' bases.
    bytes_base: int
    #: How much of the journals is not known to be on the disk. None: there are none, or it is not known.
    bytes_unsynced: int | None
    #: Whether all of it is on the disk, and nobody has written to it since.
    clean: bool
    #: When all of it was known to be on the disk last. With "everysec" that is when it was looked at, if the journals
    #: are; with "always" too. None: not known.
    last_sync: float | None
    #: How many shards have so many entries, as a multiple of the average: below 0.5, 0.75, 0.9, 1.1, 1.25, 2; more.
    balance: tuple[int, ...]
    #: The shard with the most entries, and that with the fewest.
    largest_shard: ShardStat
    smallest_shard: ShardStat
    #: All shards, in the order of their numbers.
    per_shard: tuple[ShardStat, ...]
    #: Who has the store open. None: not known, as the system does not tell. (Linux does.)
    processes: tuple[User, ...] | None
    #: Who reads the oldest state of it. None: nobody reads, or it is not known.
    oldest_snapshot: OldestSnapshot | None
    #: The processes that died while they read: their slots keep space from being used again. None: not known.
    dead_readers: tuple[int, ...] | None
    #: Stores without a name, beside this one, that nobody has open: operations of processes that were killed have left
    #: them. None: not looked for, or not known.
    leftovers: tuple[str, ...] | None
    #: What should be done about it, in sentences.
    advice: tuple[str, ...]

    @classmethod
    def _of(cls, name: str, manifest: Manifest, per_shard: tuple[ShardStat, ...], size: int, **others: Any) -> Self:
        """Return what a store with this manifest and these shards is like. What is not given of the rest is not known.

        :param size: what it takes in all, in bytes.
        """
        entries = sum(shard.entries for shard in per_shard)
        ordered = sorted(per_shard, key=lambda shard: shard.entries)
        shown = ("id", "kind", "engine", "layout", "serdes", "key_serdes", "hash", "shards")
        found = {
            "jobs": None,
            "bytes_unsynced": None,
            "clean": False,
            "last_sync": None,
            "processes": None,
            "oldest_snapshot": None,
            "dead_readers": None,
            "leftovers": None,
            "advice": (),
            **{field: getattr(manifest, field) for field in shown},
            **others,
        }
        return cls(
            name=name,
            entries=entries,
            bytes_allocated=size,
            bytes_apparent=found.pop("bytes_apparent", size),
            bytes_per_entry=size / entries if entries else None,
            bytes_data=sum(shard.bytes for shard in per_shard),
            bytes_free=sum(shard.bytes_free for shard in per_shard),
            bytes_journal=sum(shard.bytes_journal for shard in per_shard),
            bytes_base=sum(shard.bytes_base for shard in per_shard),
            balance=balance_of([shard.entries for shard in per_shard]),
            largest_shard=ordered[-1],
            smallest_shard=ordered[0],
            per_shard=per_shard,
            **found,
        )

    def as_dict(self) -> dict[str, object]:
        """Return all of it as ``rack stat --json`` prints it. O(shards).

        :returns: a dict that JSON can hold.
        """
        return asdict(self)


def balance_of(entries: Sequence[int]) -> tuple[int, ...]:
    """Return how many shards are in each class of ``Stat.balance``, of how many entries each has."""
    average = sum(entries) / len(entries)
    classes = [0] * (len(BALANCE) + 1)
    for count in entries:
        classes[bisect_right(BALANCE, count / average if average else 1.0)] += 1
    return tuple(classes)
