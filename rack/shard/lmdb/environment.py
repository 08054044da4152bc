"""The environment of an LMDB shard: what is open of it, its growth, its forks. Operations run in :mod:`.transactions`.

``_lock`` is held around each short transaction. It makes threads of this process queue, keeps a resize (which
invalidates the process's transactions) from being seen, and is what ``before_fork`` takes so that no transaction is
alive at a fork.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any

import lmdb

from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    RackError,
)
from rack.shard.base import Home, ShardSpec
from rack.shard.descriptors import note_closed, note_opened
from rack.shard.holding import (
    exclusive,
    is_under_way,
    operation,
    reentrant,
    settle,
)
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.growth import Growth
from rack.shard.lmdb.journaled import Journalling
from rack.shard.lmdb.longkeys import LongKeys
from rack.shard.lmdb.mutex import UNKNOWN, Mutex
from rack.shard.lmdb.opening import MAX_KEY, checked, identity, make, open_file, translated, unlink
from rack.shard.problem import closed, corrupt, identity_problem
from rack.shard.snapshot import Snapshots
from rack.system.place import may_write

UNREGISTERED_TRIES = 1000


class LmdbEnvironment(Growth):
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
    _is_kept = False  # whether all that was written until it was closed here is on the disk
    _mutex: Mutex | None = None  # the writer lock, where it can be looked at
    _word: Any = UNKNOWN  # of that

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
            # Who only reads has to know at once whether writers know of him, and who may not write, that he may not.
            if spec.readonly or (inode := checked(spec)) is None or not may_write(spec.path):
                self._open()
            else:
                self._inode = inode
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the file: when it is used for the first time, here or in a forked child, or after it was put away."""
        self._shut()
        spec = self._locate()
        try:
            self._env, self._unregistered, self._inode, self._mutex = open_file(spec, self._inode)
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
            self._shut()
            if isinstance(error, lmdb.Error):
                raise translated(error, spec.path) from error
            raise
        self._begin = self._begin_refused if self._unregistered else env.begin
        self._begin_write = self._writer() if spec.readonly else self._begin_first
        note_opened(self)

    def _shut(self) -> None:
        """Close the file, if it is open. The lock's map comes last: closing it drops the locks that LMDB has."""
        self._main = self._long = None
        if self._env is not None:
            self._env.close()
            self._env = None
        self._mutex, self._word = None, UNKNOWN
        note_closed(self)

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
        """Stands for ``_begin`` until the shard's first use in this process."""
        self._reopen()
        return self._begin(*args)

    def _begin_write_reopened(self) -> Any:
        self._reopen()
        return self._begin_write()

    def _reopen(self) -> None:
        if is_under_way(_OPENING, "self", lambda other: other is self):
            raise reentrant(self.path, "opening the same shard, or putting it away")
        self._home.rejoin()
        self._open()

    def _begin_first(self) -> Any:
        """Stands for ``_begin_write`` until it is put down that this process writes to the store."""
        has_company = self._home.begin_writing()
        if self._env is None:
            raise closed()  # meanwhile, by a signal handler
        if self._journalled is not None:
            self._journalled.begin()
        if self._long is not None:
            self._long.keep()
        if has_company and self._mutex is not None:
            if not self._mutex.is_found:
                self._find_word(self._mutex)
            self._word = self._mutex.word
        self._begin_write = self._writer()
        return self._begin_write()

    def _find_word(self, mutex: Mutex) -> None:
        begun = []  # no variable refers to it: an exception's traceback would keep the transaction alive
        try:
            begun.append(self._env.begin(None, None, True))
            mutex.find()
        finally:
            begun.clear()

    def _begin_idle(self) -> Any:
        """Begin a write transaction in which nothing will be written."""
        if self._begin_write == self._begin_write_reopened:
            self._reopen()
        return (self._writer() if self._begin_write == self._begin_first else self._begin_write)()

    def _is_writing(self) -> bool:
        """Return whether ``_begin_write`` begins a transaction, and does not stand for that."""
        stands = self._begin_first, self._begin_write_reopened, self._begin_closed
        return self._begin_write not in stands

    @exclusive
    def rest(self) -> None:
        if self._is_writing() and not self._spec.readonly:
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

    def _lose_env(self) -> None:
        self._env, self._begin, self._begin_write = None, self._begin_reopened, self._begin_write_reopened

    # Life

    def _new_lock(self) -> None:
        self._busy = False  # see rack.shard.holding
        self._at_fork = False  # whether before_fork has taken the lock
        self._mutex, self._word = None, UNKNOWN
        self._patience: float | None = None  # seconds that the present operation may wait
        self._held: Any = None  # a write transaction: hold()
        self._lock = RLock()
        self._acquire = self._lock.acquire
        self._release = self._lock.release
        self._owned: Callable[[], bool] = self._lock._is_owned

    @operation
    def close(self, timeout: float | None = None) -> None:
        try:
            if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
                raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
            try:
                self._begin = self._begin_write = self._begin_closed
                self._unregistered = False
                self._snapshots.lose("its store was closed")
                self._shut()
                if self._journalled is not None:
                    self._journalled.close()
            finally:
                self._lock.release()
        except BaseException:
            settle(self)
            raise

    @operation
    def put_away(self) -> bool:
        """Close the file until it is used again, unless it is in use just now; return whether it is closed."""
        journalled = self._journalled
        was_owned = True
        try:
            was_owned = self._owned()
            if was_owned or not self._acquire(blocking=False):
                return False
            self._busy = True  # nothing is done by hand, which gives the lock back for good
            is_shut = False
            if journalled is None or journalled.copying.acquire(blocking=False):
                is_shut = self._put_away()
                if journalled is not None:
                    journalled.copying.release()
            self._busy = False
            if self._owned():  # a signal handler that came right here may have given it back
                self._release()
            return is_shut
        except BaseException:
            # Only what is called right here is sure to be called at the recursion limit.
            try:
                while not was_owned and journalled is not None and journalled.copying._is_owned():  # type: ignore[attr-defined]
                    journalled.copying.release()
            finally:
                while not was_owned and self._owned():
                    self._busy = False
                    self._release()
            raise

    def _put_away(self) -> bool:
        if self._spec.readonly or self._snapshots:
            return False
        if self._env is not None:
            self._is_kept = False
            self._begin, self._begin_write = self._begin_reopened, self._begin_write_reopened
            self._shut()
            self._let_go_of_journal()
        return True

    def _let_go_of_journal(self) -> None:
        old = self._journalled
        if old is not None:
            self._journalled = self._new_journalling()  # first: an exception may leave the old one half closed
            old.close()

    @exclusive
    def on_write(self, check: Callable[[bool], None] | None) -> None:
        self._check_write = check
        if self._is_writing():
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
        self._new_lock()
        self._let_go_of_journal()
        self._snapshots.after_fork_in_child()
        self._unregistered = False
        if self._env is not None:
            self._begin, self._begin_write = self._begin_reopened, self._begin_write_reopened
            self._shut()


_OPENING = {LmdbEnvironment._open.__code__, LmdbEnvironment._put_away.__code__}
