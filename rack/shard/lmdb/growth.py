"""How the file of an open LMDB shard grows, and how it adopts what others have grown.

A resize invalidates the process's transactions. So the shard's lock is held, and its snapshots move away before.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from io import FileIO
from typing import Any

import lmdb

from rack.shard.base import ShardSpec
from rack.shard.holding import exclusive, refuse_inside_resize, resizing
from rack.shard.lmdb import datafile
from rack.shard.lmdb.opening import translated
from rack.shard.place import located
from rack.shard.snapshot import Snapshots
from rack.system.flock import while_open


class Growth(ABC):
    _spec: ShardSpec
    _env: Any
    _inode: tuple[int, int] | None
    _snapshots: Snapshots
    _patience: float | None
    _lock: Any
    _busy: bool  # see rack.shard.holding
    _held: Any
    _at_fork: bool

    @property
    def path(self) -> str:
        return self._spec.path

    @abstractmethod
    def _lose_env(self) -> None:
        """Have it that the environment is closed."""

    @exclusive
    def _adopt_grown(self) -> None:
        self._adopt_size()

    def _locate(self) -> ShardSpec:
        """Return the spec, with the path at which the file is now."""
        self._spec = located(self._spec, self._inode)
        return self._spec

    @resizing
    def _adopt_size(self) -> None:
        """Take over the size that another process has given the file."""
        refuse_inside_resize(self)
        self._locate()
        self._snapshots.detach()
        if self._spec.readonly:
            self._env.set_mapsize(os.stat(self._spec.path).st_size)
            return
        while_open(self._growth_lock, lambda fd: self._resize(os.fstat(fd).st_size))

    def _growth_lock(self) -> FileIO:
        return datafile.growth_lock(self._spec.path, self._inode, self._patience)

    @resizing
    def _grow(self, need: int) -> None:
        """Make room for an operation on ``need`` bytes, unless another process has just made some."""
        refuse_inside_resize(self)
        self._locate()
        self._snapshots.detach()  # may take long, so before others wait for the lock
        self._env.reader_check()  # a dead reader keeps pages from being used again
        while_open(self._growth_lock, lambda fd: self._grow_locked(fd, need))

    def _grow_locked(self, fd: int, need: int) -> None:
        size = os.fstat(fd).st_size
        if size <= self._env.info()["map_size"]:
            size = datafile.grow(fd, size, need, self._spec.path)
        self._resize(size)

    def _resize(self, size: int) -> None:
        try:
            self._env.set_mapsize(size)
        except lmdb.Error as error:
            # The environment is unusable after a failed remap (address space, memory): open it anew at next use.
            with contextlib.suppress(lmdb.Error):
                self._env.close()
            self._lose_env()
            raise translated(error, self._spec.path) from error
