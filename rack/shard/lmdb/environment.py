"""The environment of an LMDB shard: what is open of it, its growth, its forks. Operations run in :mod:`.transactions`.

``_lock`` is held around each short transaction. It makes threads of this process queue, keeps a resize (which
invalidates the process's transactions) from being seen, and is what ``before_fork`` takes so that no transaction is
alive at a fork.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from io import FileIO
from threading import RLock
from typing import Any

import lmdb

from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    RackError,
)
from rack.shard.base import Home, ShardSpec
from rack.shard.holding import exclusive, operation, refuse_inside_resize, resizing, settle
from rack.shard.lmdb import datafile
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.journaled import Journalling
from rack.shard.lmdb.longkeys import LongKeys
from rack.shard.lmdb.opening import MAX_KEY, identity, make, open_file, translated, unlink
from rack.shard.place import located
from rack.shard.problem import closed, corrupt, identity_problem
from rack.shard.snapshot import Snapshots
from rack.system.flock import while_open

UNREGISTERED_TRIES = 1000


class LmdbEnvironment(ABC):
    """``_begin`` and ``_begin_write`` begin a transaction, or stand for that: while closed, and after a fork."""

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        try:
            make(spec)
        except BaseException as error:
            unlink(spec)
            if isinstance(error, lmdb.Error):
                raise translated(error, spec.path) from error
            raise

    _append: Any = None  # of the journal that is open, if there is one

    def __init__(self, spec: ShardSpec, home: Home, among: list[Any] | None = None) -> None:
        self._spec = spec
        self._home = home
        self._new_lock()
        self._begin: Any = self._begin_reopened
        self._begin_write: Any = self._begin_write_reopened
        self._env: Any = None
        self._main: Any = None
        self._long: LongKeys | None = None
        self._inode: tuple[int, int] | None = None
        self._check_write: Callable[[bool], None] | None = None
        self._journalled = self._new_journalling()
        self._snapshots = Snapshots()
        self._unregistered = False  # a reader that may not write the lock file, of whom writers do not know
        if among is not None:
            among.append(self)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        spec = self._locate()
        try:
            self._env, self._unregistered, self._inode = open_file(spec)
            env = self._env
            if env.max_key_size() != MAX_KEY:
                raise RackError(f"this build of LMDB has keys of {env.max_key_size()} bytes; Rack needs {MAX_KEY}")
            if not spec.readonly:
                env.reader_check()
            for attempt in itertools.count():
                try:
                    self._open_tables(env)
                    break
                except lmdb.MapResizedError:  # another process has just made the file larger
                    self._adopt_size()
                except (lmdb.Error, CorruptShardError):
                    if not self._unregistered or attempt == UNREGISTERED_TRIES:
                        raise
        except BaseException as error:
            if self._env is not None:
                self._env.close()
                self._env = None
            if isinstance(error, lmdb.Error):
                raise translated(error, spec.path) from error
            raise
        self._begin = self._begin_refused if self._unregistered else env.begin
        self._begin_write = self._writer() if spec.readonly else self._begin_first

    def _writer(self) -> Callable[[], Any]:
        """Return what begins a write transaction in the environment."""
        begin: Callable[[], Any] = partial(self._env.begin, None, None, True)
        if self._check_write is not None:
            begin = partial(self._begin_checked, begin)
        return begin

    @abstractmethod
    def _new_journalling(self) -> Journalling | None:
        """Return what journals the shard's transactions, with durability "everysec"."""

    def _open_tables(self, env: Any) -> None:
        self._main = env.open_db()
        self._check_identity(env)
        self._long = None
        if self._spec.layout != "small":
            self._long = LongKeys(env, LONG_TABLE, self._spec)

    def _check_identity(self, env: Any) -> None:
        with env.begin() as txn:
            found = txn.get(IDENTITY)
        text = None if found is None else found.decode("latin-1")
        problem = identity_problem(identity(self._spec).decode(), text)
        if problem is not None:
            raise corrupt(self._spec.path, problem.message)

    def _begin_reopened(self, *args: Any) -> Any:
        """Stands for ``_begin`` in a forked child until the shard's first use there."""
        self._home.rejoin()
        self._open()
        return self._begin(*args)

    def _begin_write_reopened(self) -> Any:
        self._home.rejoin()
        self._open()
        return self._begin_write()

    def _begin_first(self) -> Any:
        """Stands for ``_begin_write`` until it is put down that this process writes to the store."""
        self._home.begin_writing()
        if self._env is None:
            raise closed()  # meanwhile, by a signal handler
        if self._journalled is not None:
            self._journalled.open()
        self._begin_write = self._writer()
        return self._begin_write()

    def _begin_idle(self) -> Any:
        """Begin a write transaction in which nothing will be written."""
        return (self._writer() if self._begin_write == self._begin_first else self._begin_write)()

    @exclusive
    def rest(self) -> None:
        if self._env is not None and not self._spec.readonly:
            self._begin_write = self._begin_first

    def _begin_checked(self, begin: Callable[[], Any]) -> Any:
        """Begin a write transaction and make the check that ``on_write`` has asked for."""
        begun = []  # no variable refers to it: an exception's traceback would keep the transaction alive
        try:
            begun.append(begin())
            assert self._check_write is not None
            self._check_write(True)
            return begun.pop()
        except BaseException:
            begun.clear()
            raise

    def _begin_refused(self, *args: Any) -> Any:
        """Stands for ``_begin`` of an unregistered reader: leaves it all to ``_read``."""
        raise lmdb.Error("mdb_txn_begin")

    def _begin_closed(self, *args: Any) -> Any:
        raise closed()

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
            self._env, self._begin, self._begin_write = None, self._begin_reopened, self._begin_write_reopened
            raise translated(error, self._spec.path) from error

    # Life

    @property
    def path(self) -> str:
        return self._spec.path

    def _new_lock(self) -> None:
        self._busy = False  # see rack.shard.holding
        self._at_fork = False  # whether before_fork has taken the lock
        self._mutex: Any = None  # the writer lock, if it is known where it is
        self._patience: float | None = None  # seconds that the present operation may wait
        self._held: Any = None  # a write transaction: hold()
        self._lock = RLock()
        self._acquire = self._lock.acquire
        self._release = self._lock.release
        self._owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]

    @operation
    def close(self, timeout: float | None = None) -> None:
        try:
            if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
                raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
            try:
                self._begin = self._begin_write = self._begin_closed
                self._unregistered = False
                self._main = self._long = None
                self._snapshots.lose("its store was closed")
                if self._env is not None:
                    self._env.close()
                    self._env = None
                if self._mutex is not None:
                    self._mutex.close()
                    self._mutex = None
                if self._journalled is not None:
                    self._journalled.close()
            finally:
                self._lock.release()
        except BaseException:
            settle(self)
            raise

    @exclusive
    def on_write(self, check: Callable[[bool], None] | None) -> None:
        self._check_write = check
        if self._env is not None and self._begin_write != self._begin_first:
            self._begin_write = self._writer()

    # Called again when an exception has cut them off.

    @operation
    def before_fork(self) -> None:
        if not self._at_fork:
            if self._journalled is not None:
                self._journalled.give_way = True
                self._journalled.copying.acquire()
            self._lock.acquire()
            self._at_fork = True
        self._busy = True  # nothing is done by hand, which gives the lock back for good
        self._snapshots.before_fork()

    @operation
    def after_fork_in_parent(self) -> None:
        self._snapshots.after_fork_in_parent()
        if self._at_fork:
            self._busy = self._at_fork = False
            self._lock.release()
        settle(self)
        if self._journalled is not None:
            self._journalled.give_way = False
            while self._journalled.copying._is_owned():  # type: ignore[attr-defined]
                self._journalled.copying.release()

    def after_fork_in_child(self) -> None:
        # No transaction is alive (before_fork), so closing the copy touches neither the parent's reader slots nor
        # its locks; and LMDB must not be opened a second time while the copy is open.
        if self._mutex is not None:
            self._mutex.close()
        self._new_lock()
        if self._journalled is not None:
            self._journalled.close()
            self._journalled = self._new_journalling()
        self._snapshots.after_fork_in_child()
        self._unregistered = False
        if self._env is not None:
            self._main = self._long = None
            self._begin, self._begin_write = self._begin_reopened, self._begin_write_reopened
            self._env.close()
            self._env = None
