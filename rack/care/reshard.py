"""``rack reshard``: cuts a store into another number of shards."""

from __future__ import annotations

import os
from collections.abc import Callable

from rack.care.alone import alone
from rack.care.rewrite import Job, groups, rewrite
from rack.shard.address import Address
from rack.store import moving, scratch
from rack.store.manifest import MAX_SHARDS, Manifest, Request, absolute_path, manifest_path, new_id
from rack.store.record import Record, present_stamps
from rack.system.arguments import whole
from rack.system.fanout import fan_out
from rack.system.imports import importing
from rack.system.place import take_after_path

#: Called now and then with the entries done so far.
Progress = Callable[[int], object]


def reshard(
    name: str | os.PathLike[str],
    shards: int,
    *,
    workers: int = 1,
    hash: Callable[[bytes], bytes] | None = None,
    timeout: float | None = 0,
    progress: Progress | None = None,
) -> int:
    """Cut a store into another number of shards; return how many entries it has.

    More shards let more processes write at once; fewer take fewer files and descriptors. Everything else of the store
    stays as it is. Its files are compact then (see :func:`rack.compact`).

    O(n); each shard is read once, and the new ones are written in order of their keys. Atomic: whenever the process is
    killed, there is the old store or the new one, as a whole. The disk has to have room for both. Who opens the store
    meanwhile waits.

    On servers the same holds, but that nobody is kept from the store. What others write meanwhile may be lost. If that
    is noticed before the end, it is an error, and the store is as it was. In layouts without an order, the number of
    entries alone tells. Who still has it open is told so when he connects anew, or closes it.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param shards: how many shards it is to have, 1 to 9,999.
    :param workers: how many processes do it. They take parts that have no keys in common: as many as the greatest
        common divisor of the old and the new number of shards.
    :param hash: the function that the store was made with, if it is not the default.
    :param timeout: how many seconds to wait for others who have the store open; None: until they have closed it.
    :param progress: called now and then as ``progress(entries)``: how many are done.
    :returns: how many entries the store has.
    :raises StoreNotFoundError: there is no such store.
    :raises StoreInUseError: others have the store open; it says who. On servers: others have written to it meanwhile.
    :raises StoreFullError: no room for the new shards. The store is as it was.
    :raises MismatchError: the store was made with another hash.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen", shards=2) as seen:
    ...     seen.update(range(100))
    >>> rack.reshard(tmp / "seen", 4)
    100
    """
    shards = whole("shards", shards, 1, MAX_SHARDS)
    workers = whole("workers", workers, 1)
    path = absolute_path(name)
    if isinstance(path, Address):
        with importing():
            from rack.care.recut import reshard as reshard_served

        return reshard_served(path, shards, workers, hash, progress)
    with alone(path, "reshard it", timeout) as old:
        request = Request(old.kind, hash=hash, opaque=True)
        old.reconcile_hash(request, path)
        new = old._replace(shards=shards, id=new_id())
        entries = 0

        def count(more: float) -> None:
            nonlocal entries
            entries += int(more)
            if progress is not None:
                progress(entries)

        with scratch.making(path, new) as part:
            job = Job(path, old, part, new, request)
            fan_out(rewrite, (job,), range(groups(old.shards, new.shards)), workers, count)
            Record("", Record.read(path).durability, present_stamps(part, new)).write(part, sync=True)
            _take_after(part, new, path)
            new.finish(part)
            moving.move(part, path)
        return entries


def _take_after(part: str, new: Manifest, path: str) -> None:
    """Give new files the owner, group and mode of the old ones."""
    for file in new.files(part):
        if os.path.exists(file):
            take_after_path(file, manifest_path(path))
