"""``snapshot()`` and ``backup()``: the part of a container that sees the store at one instant."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Self

from rack.errors import NotOpenError
from rack.shard.address import Address
from rack.shard.base import Shard
from rack.store import registry
from rack.store.manifest import Request, absolute_path
from rack.store.opening import Mode
from rack.store.openstore import Hold
from rack.store.sharded import Store
from rack.store.where import site_of
from rack.system.imports import importing


class Snapshotting:
    """Base of the container, which see for the attributes."""

    name: str
    _path: str
    _arguments: dict[str, Any]
    _request: Request
    _mode: Mode
    _store: Store
    _openings: list[None]
    _entered_by_maker: bool
    _is_snapshot = False
    _open_store: Callable[[], Any]
    open: Callable[[], Self]
    copy: Callable[..., Any]
    _attach: Callable[[Hold], None]
    _bare: Callable[..., Self]
    _extra: Callable[[], Any]

    def snapshot(self) -> Self:
        """Return a read-only view of all shards at one instant, opened: a container that never changes.

        O(shards), whatever the size. Atomic: all shards are of one instant. It waits for no writer, unless shards are
        written to at that moment: then it holds off the writers of these for a moment.

        Use it in a ``with`` block, in this process and its threads. It is not pickled, and not open in a forked child.

        As long as it is open, space of deleted and replaced entries is not used again, in any process. On LMDB it is
        copied to temporary files, shard by shard, when this process has to make a shard larger; on SQLite, as a whole,
        before this process forks. If there is no space for that, reading it is SnapshotLostError from then on.

        :returns: a container of the same class, to be closed. Of a snapshot: the snapshot itself.
        :raises NotOpenError: the container is not open.
        :raises UnsupportedOperation: the store is on a server.
        :raises LockTimeoutError: with ``timeout=``; or after a minute, if a busy store was opened with flag "r".
        :raises SnapshotLostError: it was opened without the permission to write, and it was written to, or there is no
            space.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "ages") as ages:
        ...     ages["ann"] = 31
        ...     with ages.snapshot() as then:
        ...         ages["ann"] = 32
        ...         then["ann"], ages["ann"]
        (31, 32)
        """
        if self._is_snapshot:
            made = self.open()
        else:
            with importing():
                from rack.store.instant import OpenSnapshot

            made = self._bare(self._path, self._extra(), **{**self._arguments, "flag": "r", "timeout": None})
            made.name, made._request, made._is_snapshot = self.name, self._request, True
            made._attach(Hold(OpenSnapshot(self._open_store(), self._store, self._mode.timeout)))
            made._openings.append(None)
        made._entered_by_maker = True
        return made

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Make a store at another path that has all shards at one instant, while writers go on.

        It is made like this one (serdes, shards, engine). O(n). Atomic: all shards are of one instant, and the backup
        is there as a whole, on the disk, or not at all. A store on a server keeps no instants: of that it is a copy, in
        which each entry is of a moment of its own.

        :param path: where the files of the backup will be: a path prefix, like ``name``. The directory must exist.
        :raises NotOpenError: the container is not open.
        :raises StoreExistsError: there is a store at ``path``.
        :raises StoreNotFoundError: there is no directory for it.
        :raises StorePathError: the files cannot be there.
        :raises StoreFullError: no space.
        :raises LockTimeoutError: as of :meth:`snapshot`.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "live") as ages:
        ...     ages["ann"] = 31
        ...     ages.backup(tmp / "backup")
        >>> with PersistentDict(tmp / "backup", flag="r") as ages:
        ...     dict(ages)
        {'ann': 31}
        """
        with importing():
            from rack.store.backup import write_backup
            from rack.store.instant import OpenSnapshot

        target = absolute_path(path)
        if isinstance(self._path, Address):
            with self.copy(path):
                return
        if self._is_snapshot:
            write_backup(self._open_store(), target)
            return
        site_of(target).check_absent(target)
        snapshot = OpenSnapshot(self._open_store(), self._store, self._mode.timeout)
        hold = Hold(snapshot)
        try:
            write_backup(snapshot, target, Shard.close)  # each as soon as it is copied, so that its space is free
            registry.release(hold)
        except BaseException:
            registry.release(hold)
            raise

    def _check_openable(self) -> None:
        if self._is_snapshot:
            raise NotOpenError("a snapshot cannot be opened again; take another one")

    def _check_sendable(self) -> None:
        if self._is_snapshot:
            raise TypeError("a snapshot belongs to the process that took it: send the store, or a copy() with a name")
