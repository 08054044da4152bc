"""``rack.stat``: looks at a store from outside. It reads little, changes nothing and waits for no writer."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice

from rack.care import served
from rack.care.advice import advice
from rack.care.alone import Nobody, finish_move
from rack.care.stat import OldestSnapshot, ShardStat, Stat, User
from rack.errors import CorruptShardError, RackError, StoreNotFoundError
from rack.jobs.counting import counted
from rack.jobs.job import Counts
from rack.shard import shard_class
from rack.shard.address import Address
from rack.shard.base import Shard, ShardSpec, unknown_hash
from rack.shard.figures import Access, Figures
from rack.store import registry
from rack.store.files import all_files
from rack.store.manifest import Manifest, Request, absolute_path, manifest_path, record_path
from rack.store.openstore import OpenStore
from rack.store.record import Record, copy_problem
from rack.system.locktable import LockTable
from rack.system.processes import command_of, started_at

_MOST_NAMES = 100_000  # of a folder, in which leftovers are looked for
_NAME = re.compile("-anonymous-[0-9a-f]{12}")


def stat(name: str | os.PathLike[str], *, leftovers: bool = True) -> Stat:
    """Look at a store from outside, whoever has it open: how large it is, who uses it, what should be done about it.

    O(shards), and for ``leftovers`` O(f) for a folder of f files. It makes and changes no file, waits for no writer,
    and takes no more than the permission to read. Functions of one's own that the store was made with are not needed.

    A queue is opened to read for a moment, to count its jobs: O(k) for k jobs that are leased, or whose delay is over.
    On SQLite that makes an empty log, as ``flag="r"`` does.

    Not atomic: the shards are looked at one after another, while others go on writing.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param leftovers: whether to look for what killed processes have left beside the store, which lists its folder once.
        It is given up where that has more than 100,000 files.
    :returns: a :class:`rack.care.stat.Stat`.
    :raises StoreNotFoundError: there is no such store.
    :raises ManifestError: the manifest is damaged, or of a newer Rack.
    :raises CorruptShardError: a shard is missing, foreign, swapped, cut short or damaged where it is looked at, or the
        store may not be opened as it is.
    :raises StorePathError: a file cannot be read.

    >>> import rack
    >>> with rack.PersistentDict(tmp / "ages") as ages:
    ...     ages["ann"] = 31
    >>> found = rack.stat(tmp / "ages")
    >>> found.entries, found.engine, found.durability, found.clean
    (1, 'lmdb', 'everysec', True)
    """
    return look(os.fspath(name), absolute_path(name), leftovers)


def look(name: str, path: str, leftovers: bool) -> Stat:
    """Look at the store at ``path``, which is called ``name``."""
    if isinstance(path, Address):
        return served.look(name, path)
    finish_move(path)
    while True:
        manifest = Manifest.read(path)
        if manifest is None:
            raise StoreNotFoundError(f"there is no store {path}: no {manifest_path(path)}")
        try:
            return _look(name, path, manifest, leftovers)
        except RackError:
            there = Manifest.read(path)
            if there is None or there.id == manifest.id:
                raise
            # The store was replaced by another one meanwhile.


def _look(name: str, path: str, manifest: Manifest, leftovers: bool) -> Stat:
    record = Record.read(path)
    _check_openable(path, manifest, record)
    with registry.borrowed(path) as own:
        for shard in own.shards if own is not None and own.is_ready else ():
            shard.count_at_once()  # has it open, so that its files can be read through its own descriptors
        figures = registry.undisturbed(path, partial(_figures, path, manifest))
        jobs = _jobs(path, manifest, record, own) if manifest.kind == "queue" else None
    table = LockTable.read()
    allocated, apparent = _sizes(all_files(manifest, path))
    per_shard = tuple(
        ShardStat(number, each.entries, each.size, each.free, each.journal, each.base, each.commits)
        for number, each in enumerate(figures)
    )
    clean = not record.boot
    unsynced = [0 if clean else each.unsynced for each in figures if each.unsynced is not None]
    users = None if table is None else _users(path, table)
    snapshot = _oldest(figures)
    dead = sorted({pid for each in figures for pid in each.dead_readers})
    dead_readers = tuple(dead) if all(each.readers_are_known for each in figures) else None
    left = _leftovers(path, table) if leftovers and table is not None else None
    found = Stat._of(
        name,
        manifest,
        per_shard,
        allocated,
        bytes_apparent=apparent,
        durability=record.durability,
        jobs=jobs,
        bytes_unsynced=sum(unsynced) if unsynced else None,
        clean=clean,
        last_sync=_last_sync(path, record, sum(unsynced) if len(unsynced) == manifest.shards else None),
        processes=users,
        oldest_snapshot=snapshot,
        dead_readers=dead_readers,
        leftovers=left,
    )
    return replace(found, advice=tuple(advice(found, _needs_recovery(record, users))))


def _check_openable(path: str, manifest: Manifest, record: Record) -> None:
    """Raise what opening the store would raise of what its record says."""
    if (problem := copy_problem(path, manifest, record)) is not None:
        raise CorruptShardError(f"{manifest_path(path)} {problem}")
    if record.is_of_earlier_boot() and record.durability != "everysec":  # else the next one that opens it recovers it
        cls = shard_class(manifest.engine)
        for number in range(manifest.shards):
            cls.recover(_spec(path, manifest, number), record.durability)


def _spec(path: str, manifest: Manifest, number: int) -> ShardSpec:
    return manifest.spec(path, number, Request(manifest.kind, hash=unknown_hash), "process", True)


def _figures(path: str, manifest: Manifest, may_open: bool) -> list[Figures]:
    cls, access = shard_class(manifest.engine), Access(may_open)
    return [cls.figures(_spec(path, manifest, number), access) for number in range(manifest.shards)]


def _jobs(path: str, manifest: Manifest, record: Record, own: OpenStore | None) -> Counts | None:
    """Return how many jobs of a queue are in each state; None if that cannot be told without waiting, or recovering."""
    try:
        if own is not None:
            return counted(own.shards) if own.is_ready else None
        return None if record.is_of_earlier_boot() else registry.undisturbed(path, partial(_read_jobs, path, manifest))
    except RackError:  # what was to be told is not in the way of the rest
        return None


def _read_jobs(path: str, manifest: Manifest, may_open: bool) -> Counts | None:
    if not may_open:
        return None
    cls = shard_class(manifest.engine)
    opened: list[Shard] = []
    try:
        return counted(
            [cls.opened(_spec(path, manifest, number), Nobody(), opened) for number in range(manifest.shards)]
        )
    finally:
        for shard in opened:
            shard.close()


def _sizes(files: Iterable[str]) -> tuple[int, int]:
    """Return how much files take on the disk, and the sum of their lengths."""
    allocated = apparent = 0
    for file in files:
        try:
            status = os.lstat(file)
        except OSError:
            continue
        allocated += status.st_blocks * 512
        apparent += status.st_size
    return allocated, apparent


def _users(path: str, table: LockTable) -> tuple[User, ...]:
    writers = table.flocks(record_path(path))
    users = []
    for pid, alone in sorted(table.flocks(path + ".rack-lock").items()):
        mode = "alone" if alone else "write" if pid in writers else "read"
        users.append(User(pid, command_of(pid), mode, started_at(pid)))
    return tuple(users)


def _oldest(figures: list[Figures]) -> OldestSnapshot | None:
    readers = [(number, each.oldest) for number, each in enumerate(figures) if each.oldest is not None]
    if not readers:
        return None
    number, oldest = max(readers, key=lambda reader: (reader[1].held or 0, reader[1].behind))
    held = [each.held for _, each in readers if each.held is not None]
    started = [at for at in map(started_at, oldest.pids) if at is not None]
    return OldestSnapshot(
        shard=number,
        pids=oldest.pids,
        behind=oldest.behind,
        bytes_held=sum(held) if held else None,
        age_at_most=time.time() - min(started) if len(started) == len(oldest.pids) else None,
    )


def _last_sync(path: str, record: Record, unsynced: int | None) -> float | None:
    if not record.boot:
        try:
            return os.stat(record_path(path)).st_mtime
        except OSError:
            return None
    is_on_disk = record.is_of_this_boot() and (record.durability == "always" or unsynced == 0)
    return time.time() if is_on_disk else None


def _needs_recovery(record: Record, users: tuple[User, ...] | None) -> bool:
    return bool(record.boot) and not record.is_of_this_boot() and not users


def _leftovers(path: str, table: LockTable) -> tuple[str, ...] | None:
    """Return the anonymous stores beside a store that nobody has open; None if the folder has too many files."""
    folder, name = os.path.split(path)
    found = set()
    try:
        with os.scandir(folder) as files:
            for count, file in enumerate(islice(files, _MOST_NAMES + 1)):
                if count == _MOST_NAMES:
                    return None
                if file.name.startswith(name) and (match := _NAME.match(file.name, len(name))):
                    found.add(os.path.join(folder, file.name[: match.end()]))
    except OSError:
        return None
    return tuple(sorted(left for left in found if not table.flocks(left + ".rack-lock")))
