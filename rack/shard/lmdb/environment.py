"""The environment of an LMDB shard: opening, transactions, growth, fork. What is stored in it is :mod:`.lmdb`'s.

``_lock`` is held around each short transaction. It makes threads of this process queue, keeps a resize (which
invalidates the process's transactions) from being seen, and is what ``before_fork`` takes so that no transaction is
alive at a fork.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable
from fcntl import LOCK_EX
from functools import partial
from threading import RLock
from typing import Any, TypeVar

import lmdb

from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    NotOpenError,
    RackError,
    ReadOnlyError,
    StoreFullError,
    StorePathError,
)
from rack.shard.base import ShardSpec
from rack.shard.lmdb import datafile
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.journaled import JournalledShard, JournalledTxn
from rack.shard.lmdb.longkeys import LongKeys
from rack.shard.lmdb.opening import MAX_KEY, identity, make, open_env, translated, unlink
from rack.shard.problem import corrupt, identity_problem
from rack.shard.snapshot import Snapshots
from rack.system.flock import flock_within

Result = TypeVar("Result")

_UNREGISTERED_TRIES = 1000


class LmdbEnvironment:
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

    def __init__(self, spec: ShardSpec, rejoin: Callable[[], None]) -> None:
        self._spec = spec
        self._rejoin = rejoin
        self._new_lock()
        self._begin: Any = self._begin_reopened
        self._begin_write: Any = self._begin_write_reopened
        self._env: Any = None
        self._main: Any = None
        self._long: LongKeys | None = None
        self._inode = (0, 0)
        self._check_write: Callable[[bool], None] | None = None
        is_journalled = spec.durability == "everysec" and not spec.readonly
        self._journalled = JournalledShard(self, spec) if is_journalled else None
        self._snapshots = Snapshots()
        self._unregistered = False  # a reader that may not write the lock file, of whom writers do not know
        with self._lock:
            self._open()

    def _read(self, body: Callable[..., Result], *args: Any) -> Result:
        overtaken = 0
        with self._lock:
            while overtaken < _UNREGISTERED_TRIES:
                number = -1
                try:
                    txn = self._env.begin() if self._unregistered else self._begin()
                    number = txn.id() if self._unregistered else -1
                    try:
                        if self._long is not None:
                            self._long.enter(txn)
                        result = body(self, txn, *args)
                    finally:
                        abort(txn)
                    if not self._overtaken(number):
                        return result
                except lmdb.Error as error:
                    if not self._overtaken(number):
                        self._mend(error, args)
                        continue
                except Exception:
                    if not self._overtaken(number):
                        raise
                overtaken += 1
        raise RackError(
            f"{self._spec.path} changes faster than it can be read without being registered as a reader:"
            f" get the permission to write {self._spec.path}-lock"
        )

    def _overtaken(self, number: int) -> bool:
        """Return whether pages of snapshot ``number`` may have been used again, as nobody knew that they were read.

        LMDB uses the pages of a snapshot again two commits later. (Registered readers have the number -1.)
        """
        return number >= 0 and self._env.info()["last_txnid"] > number + 1

    def _write(self, body: Callable[..., Result], *args: Any) -> Result:
        """Run ``body(self, txn, *args)`` in a write transaction, again after growing the map where that is needed."""
        with self._lock:
            recycled = False
            while True:
                try:
                    txn = self._begin_write()
                    try:
                        if self._long is not None:
                            self._long.enter(txn)
                        result = body(self, txn, *args)
                        txn.commit()
                        if self._long is not None:
                            self._long.keep()
                        return result
                    except BaseException:
                        abort(txn)
                        raise
                except lmdb.Error as error:
                    try:
                        self._mend(error, args)
                    except StoreFullError:
                        if recycled or not self._recycle():
                            raise
                        recycled = True

    def _started(self, begin: Callable[[], Any]) -> Any:
        """Return a transaction that stays open; the caller has the lock."""
        while True:
            try:
                return begin()
            except lmdb.Error as error:
                self._mend(error, ())

    def _mend(self, error: lmdb.Error, args: tuple[Any, ...]) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if self._check_write is not None:
            self._check_write(False)
        if isinstance(error, lmdb.MapFullError):
            self._grow(_bytes_in(args))
        elif isinstance(error, lmdb.MapResizedError):
            self._adopt_size()
        elif isinstance(error, lmdb.ReadersFullError) and self._env.reader_check():
            pass
        else:
            raise translated(error, self._spec.path) from error

    def _give_up(self, error: BaseException, txn: Any = None) -> None:
        """Undo an attempt; raise the error again unless it is LMDB's.

        If this thread has the lock it got it in this attempt, or before and then again in this attempt: a thread that
        has it already does not wait, and only waiting is interrupted.
        """
        if txn is not None:
            abort(txn)
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._release()
        if not isinstance(error, lmdb.Error):
            raise error

    def _open(self) -> None:
        spec = self._spec
        with contextlib.ExitStack() as stack:
            try:
                if not spec.readonly:
                    fd = stack.enter_context(datafile.growth_lock(spec.path, timeout=spec.timeout))
                else:
                    fd = os.open(spec.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
            except FileNotFoundError:
                raise corrupt(spec.path, "a shard of the store is missing", errno.ENOENT) from None
            except OSError as error:
                if isinstance(error, RackError):
                    raise
                raise StorePathError(error.errno, error.strerror, spec.path) from error
            datafile.check_header(fd, spec.path)
            status = os.fstat(fd)
            size = status.st_size
            if not spec.readonly and size % datafile.PAGE:  # a growth that was cut short
                datafile.extend(fd, size, datafile.grown(size, 1), spec.path)
                size = os.fstat(fd).st_size
            if not spec.readonly:
                datafile.back_lock_file(spec.path + "-lock")
            elif not os.path.lexists(spec.path + "-lock"):  # as after a copy of the store: LMDB would make it
                with contextlib.suppress(ReadOnlyError):  # or not, where it may not
                    flock_within(spec.timeout, fd, LOCK_EX, spec.path)
                    datafile.back_lock_file(spec.path + "-lock")
            while True:
                try:
                    env, self._unregistered = open_env(spec, size)
                    break
                except lmdb.MapResizedError:  # to a reader, who has no growth lock: the file has just become larger
                    size = os.fstat(fd).st_size
                except lmdb.Error as error:
                    raise translated(error, spec.path) from error
        self._env, self._inode = env, datafile.file_id(status)
        try:
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
                    if not self._unregistered or attempt == _UNREGISTERED_TRIES:
                        raise
            if self._journalled is not None:
                self._journalled.open()
        except BaseException as error:
            self._env = None
            env.close()
            if isinstance(error, lmdb.Error):
                raise translated(error, spec.path) from error
            raise
        self._begin = self._begin_refused if self._unregistered else env.begin
        self._begin_write = self._writer()

    def _writer(self) -> Callable[[], Any]:
        """Return what begins a write transaction in the environment."""
        begin: Callable[[], Any] = partial(self._env.begin, None, None, True)
        if self._check_write is not None:
            begin = partial(self._begin_checked, begin)
        if (journalled := self._journalled) is None:
            return begin
        return lambda: JournalledTxn(begin(), journalled)

    def _open_tables(self, env: Any) -> None:
        self._main = env.open_db()
        self._check_identity(env)
        self._long = None
        if self._spec.layout != "small":
            self._long = LongKeys(env, LONG_TABLE, self._spec)

    def _keep_tables(self) -> None:
        """Have handles of tables that hold in any transaction begun from now on; may wait for the writer."""
        if self._long is not None and not self._long.kept:
            self._write(lambda shard, txn: None)

    def _check_identity(self, env: Any) -> None:
        with env.begin() as txn:
            found = txn.get(IDENTITY)
        text = None if found is None else found.decode("latin-1")
        problem = identity_problem(identity(self._spec).decode(), text)
        if problem is not None:
            raise corrupt(self._spec.path, problem.message)

    def _begin_reopened(self, *args: Any) -> Any:
        """Stands for ``_begin`` in a forked child until the shard's first use there."""
        self._rejoin()
        self._open()
        return self._begin(*args)

    def _begin_write_reopened(self) -> Any:
        self._rejoin()
        self._open()
        return self._begin_write()

    def _begin_checked(self, begin: Callable[[], Any]) -> Any:
        """Begin a write transaction and make the check that ``on_write`` has asked for."""
        txn = begin()
        try:
            assert self._check_write is not None
            self._check_write(True)
        except BaseException:
            abort(txn)
            raise
        return txn

    def _begin_refused(self, *args: Any) -> Any:
        """Stands for ``_begin`` of an unregistered reader: leaves it all to ``_read``."""
        raise lmdb.Error("mdb_txn_begin")

    def _begin_closed(self, *args: Any) -> Any:
        raise NotOpenError("the container is closed; open it with `with` or open()")

    def _adopt_size(self) -> None:
        """Take over the size that another process has given the file."""
        self._snapshots.detach()
        if self._spec.readonly:
            self._env.set_mapsize(os.stat(self._spec.path).st_size)
            return
        with datafile.growth_lock(self._spec.path, self._inode) as fd:
            self._resize(os.fstat(fd).st_size)

    def _grow(self, need: int) -> None:
        """Make room for an operation on ``need`` bytes, unless another process has just made some."""
        self._snapshots.detach()  # may take long, so before others wait for the lock
        self._env.reader_check()  # a dead reader keeps pages from being used again
        with datafile.growth_lock(self._spec.path, self._inode) as fd:
            size = os.fstat(fd).st_size
            if size <= self._env.info()["map_size"]:
                size = datafile.grow(fd, size, need, self._spec.path)
            self._resize(size)

    def _recycle(self) -> bool:
        """Make the pages that the last transactions freed available: LMDB uses them from the next but one on.

        Without this, a full shard that was emptied would stay full for ever: no transaction could come between.
        """
        try:
            for _ in range(2):
                with self._begin_write() as txn:
                    txn.put(IDENTITY, identity(self._spec))
        except lmdb.Error:
            return False
        return True

    def _resize(self, size: int) -> None:
        try:
            self._env.set_mapsize(size)
        except lmdb.Error as error:
            # The environment is unusable after a failed remap (address space, memory): open it anew at next use.
            with contextlib.suppress(lmdb.Error):
                self._env.close()
            self._env, self._begin, self._begin_write = None, self._begin_reopened, self._begin_write_reopened
            raise translated(error, self._spec.path) from error

    def copy(self, path: str) -> None:
        """Make a compact copy of the file; takes no lock meanwhile, and must not run while this process forks."""
        while True:
            try:
                self._env.copy(path, compact=True)
                return
            except lmdb.MapResizedError:
                with self._lock:
                    self._adopt_size()
            except lmdb.Error as error:
                raise translated(error, path) from error
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # Life

    @property
    def path(self) -> str:
        return self._spec.path

    def _new_lock(self) -> None:
        self._lock = RLock()
        self._acquire = self._lock.acquire
        self._release = self._lock.release

    def close(self, timeout: float | None = None) -> None:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
        try:
            env, self._env = self._env, None
            self._begin = self._begin_write = self._begin_closed
            self._unregistered = False
            self._main = self._long = None
            self._snapshots.lose("its store was closed")
            if env is not None:
                env.close()
            if self._journalled is not None:
                self._journalled.close()
        finally:
            self._lock.release()

    def on_write(self, check: Callable[[bool], None]) -> None:
        with self._lock:
            self._check_write = check
            if self._env is not None:
                self._begin_write = self._writer()

    def before_fork(self) -> None:
        if self._journalled is not None:
            self._journalled.copying.acquire()
        self._lock.acquire()
        self._snapshots.before_fork()

    def after_fork_in_parent(self) -> None:
        self._snapshots.after_fork_in_parent()
        self._lock.release()
        if self._journalled is not None:
            self._journalled.copying.release()

    def after_fork_in_child(self) -> None:
        # No transaction is alive (before_fork), so closing the copy touches neither the parent's reader slots nor
        # its locks; and LMDB must not be opened a second time while the copy is open.
        self._new_lock()
        if self._journalled is not None:
            self._journalled.close()
            self._journalled = JournalledShard(self, self._spec)
        self._snapshots.after_fork_in_child()
        env, self._env, self._unregistered = self._env, None, False
        if env is not None:
            self._main = self._long = None
            env.close()
            self._begin, self._begin_write = self._begin_reopened, self._begin_write_reopened


def abort(txn: Any) -> None:
    with contextlib.suppress(lmdb.Error):  # already committed or invalid
        txn.abort()


def _bytes_in(args: tuple[Any, ...]) -> int:
    """Return about how many bytes of a map an operation with these arguments may need."""
    need = 16 * datafile.PAGE
    for arg in args:
        if isinstance(arg, bytes):
            need += len(arg)
        elif isinstance(arg, list):
            for item in arg:
                need += len(item) if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 16
    return need
