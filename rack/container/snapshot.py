"""``snapshot()`` and ``backup()``: the part of a container that sees the store at one instant."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Self

from rack.errors import NotOpenError
from rack.shard.base import Shard
from rack.store import files, registry
from rack.store.manifest import Request, absolute_path
from rack.store.opening import Mode
from rack.store.openstore import Hold
from rack.store.sharded import Store
from rack.system.imports import importing


class Snapshotting:
    """Base of the container, which see for the attributes."""

    name: str
    _path: str
    _arguments: dict[str, Any]
    _request: Request
    _mode: Mode
    _store: Store
    _depth: int
    _entered_by_maker: bool
    _is_snapshot = False
    _open_store: Callable[[], Any]
    open: Callable[[], Self]
    _attach: Callable[[Hold], None]
    _bare: Callable[..., Self]
    _extra: Callable[[], Any]

    def snapshot(self) -> Self:
        """Return a read-only view of all shards at one instant, opened: a container that never changes.

        Use it in a ``with`` block, in this process and its threads: it is not pickled, and not open in a forked child.
        Writing to it is ReadOnlyError. O(shards), whatever the size; it waits for no writer unless one is busy with
        every shard, and then holds writers off for a moment.

        As long as it is open, space of deleted and replaced entries is not used again, in any process. On LMDB it is
        copied to temporary files, shard by shard, when this process has to make a shard larger; on SQLite, as a whole,
        before this process forks. If there is no space for that it is SnapshotLostError from then on.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "ages") as ages:
        ...     ages["ann"] = 31
        ...     with ages.snapshot() as then:
        ...         ages["ann"] = 32
        ...         then["ann"], ages["ann"]
        (31, 32)

        :raises LockTimeoutError: with ``timeout=``, or a busy store opened with flag "r".
        """
        if self._is_snapshot:
            made = self.open()
        else:
            with importing:
                from rack.store.instant import OpenSnapshot

            made = self._bare(self._path, self._extra(), **{**self._arguments, "flag": "r", "timeout": None})
            made.name, made._request, made._is_snapshot = self.name, self._request, True
            made._attach(Hold(OpenSnapshot(self._open_store(), self._store, self._mode.timeout)))
            made._depth = 1
        made._entered_by_maker = True
        return made

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Make a store at ``path`` that has all shards at one instant, while writers go on.

        It is made like this one (serdes, shards, engine) and is there as a whole, on the disk, or not at all. O(n).

        :raises StoreExistsError: there is a store at ``path``.
        :raises StoreNotFoundError, StoreFullError: no directory, no space. There is no backup, nor part of one.
        """
        with importing:
            from rack.store.backup import write_backup
            from rack.store.instant import OpenSnapshot

        target = absolute_path(path)
        if self._is_snapshot:
            write_backup(self._open_store(), target)
            return
        files.check_absent(target)
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
