"""``rack compact``: gives the disk back what is free in a store's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rack.care.alone import alone
from rack.care.rewrite import Job, rewrite
from rack.care.served import file_path
from rack.errors import StoreInUseError
from rack.shard import shard_class
from rack.store import scratch
from rack.store.files import unlink
from rack.store.manifest import Manifest, Request, shard_path
from rack.store.record import Record, present_stamps
from rack.system.disk import bytes_on_disk, sync_directory
from rack.system.place import take_after_path

#: Called now and then with the entries done so far.
Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Compacted:
    """What :func:`rack.compact` has done. Sizes are in bytes of disk, of all files of the shards."""

    #: The store, as it was given.
    name: str
    entries: int
    before: int
    after: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return asdict(self)


def compact(
    name: str | os.PathLike[str],
    *,
    hash: Callable[[bytes], bytes] | None = None,
    timeout: float | None = 0,
    progress: Progress | None = None,
) -> Compacted:
    """Write the shards of a store anew, one after the other, so that nothing in them is free; report what that gave.

    Deleted entries leave free pages in a shard's file, which are used again and not given back; and entries that came
    in any order leave pages half full. Afterwards the pages are full. The next writes make the files larger again.
    Journals are removed; the next write begins them anew.

    O(n). Each shard is replaced atomically, and is on the disk then: whatever happens, and whenever the process is
    killed, every shard is the old one or the new one. The disk has to have room for one shard more. Who opens the store
    meanwhile waits.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param hash: the function that the store was made with, if it is not the default.
    :param timeout: how many seconds to wait for others who have the store open; None: until they have closed it.
    :param progress: called now and then as ``progress(entries)``: how many are done.
    :returns: a :class:`rack.care.compact.Compacted`: ``entries``, ``before`` and ``after``.
    :raises StoreNotFoundError: there is no such store.
    :raises StoreInUseError: others have the store open; it says who.
    :raises StoreFullError: no room for one shard more. Shards that are done stay so.
    :raises MismatchError: the store was made with another hash.

    >>> import rack
    >>> with rack.PersistentDict(tmp / "table", shards=1) as d:
    ...     d.update((number, bytes(100)) for number in range(2000))
    ...     _ = d.delete_many(range(1990))
    >>> done = rack.compact(tmp / "table")
    >>> done.entries, done.after < done.before
    (10, True)
    """
    path = file_path(name, "the server gives free memory back by itself (`activedefrag yes` in its settings)")
    with alone(path, "compact it", timeout) as manifest:
        request = Request(manifest.kind, hash=hash, opaque=True)
        manifest.reconcile_hash(request, path)
        before, entries = _size(path, manifest), 0

        def count(more: int) -> None:
            nonlocal entries
            entries += more
            if progress is not None:
                progress(entries)

        cls = shard_class(manifest.engine)
        record = Record.read(path)
        with scratch.making(path, manifest) as part:
            job = Job(path, manifest, part, manifest, request)
            for number in range(manifest.shards):
                # All that is in the journal is on the disk, and its transactions have other numbers in the new file.
                cls.end_journal(manifest.spec(path, number, request, "process", False))
                rewrite(job, number, count)
                _replace(shard_path(part, number, cls.suffix), shard_path(path, number, cls.suffix), manifest)
                record._replace(stamps=present_stamps(path, manifest)).write(path)
        return Compacted(os.fspath(name), entries, before, _size(path, manifest))


def _replace(new: str, old: str, manifest: Manifest) -> None:
    for log in shard_class(manifest.engine).log_files(old):
        if os.path.exists(log):  # of a program that is not Rack
            raise StoreInUseError(f"{old} is in use: {log} is there")
    take_after_path(new, old)
    os.rename(new, old)
    sync_directory(os.path.dirname(old))
    unlink(shard_class(manifest.engine).files(new))


def _size(path: str, manifest: Manifest) -> int:
    return sum(map(bytes_on_disk, manifest.shard_files(path)))
