"""A process as one of those that may write to a store: what it puts down before it does, and has on the disk after it.

Who has a store open for writing holds a flock on the record, shared. So whoever gets that lock exclusively knows that
nobody has.

- *Before the first write* of a process the record says that the store is open, so that files that are copied from then
  on are known to be a copy made in use; and, on the disk, under which boot the store is written to. With "everysec"
  every shard has a journal by then.
- *When it closes the store*, or has called ``sync()``, it tries to have the lock exclusively. If it gets it, all that
  was written since the store was clean last is had on the disk, by whomever it was written, and the store is put down
  as clean, whoever else has it open to read. If it does not, others will do so; with "everysec" the logs are synced
  even so.
- *A process that is killed* leaves the store as it was put down, until the next one that had it open, if only to read,
  closes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from io import FileIO
from threading import RLock
from typing import Any

from rack.errors import LockTimeoutError, RackError, StoreDeletedError
from rack.shard import shard_class
from rack.shard.base import ShardSpec
from rack.shard.holding import is_inside, operation, reentrant, settle
from rack.store.gate import in_gate
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, manifest_path, record_path, shard_path
from rack.store.record import DURABILITIES, Record, now, present_stamps
from rack.system import boot
from rack.system.disk import path_error, sync_paths
from rack.system.flock import attempt
from rack.system.place import open_beside


class Writing:
    """Whether this process writes to an open store.

    ``where`` and ``specs`` tell where the store and its shards are now; ``begun`` is called when it begins to write.
    """

    _busy = False  # see rack.shard.holding
    _held: Any = None
    _at_fork = False  # begins in a shard's lock, which a fork has then

    def __init__(
        self,
        manifest: Manifest,
        durability: str,
        timeout: float | None,
        where: Callable[[], str],
        specs: Callable[[], list[ShardSpec]],
        begun: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._cls = shard_class(manifest.engine)
        self._durability = durability
        self._timeout = timeout
        self._where = where
        self._specs = specs
        self._has_begun = begun
        self._lock = RLock()
        self._file: FileIO | None = None  # the record's, locked
        self.begun = False
        self._is_alone = True
        self._marked_at = 0

    @property
    def path(self) -> str:
        """Where the store is."""
        return self._where()

    @operation
    def _run(self, body: Callable[[], None]) -> None:
        """Run ``body`` alone among the threads.

        :raises ReentrantWriteError: a signal handler came in the middle of this.
        """
        try:
            with self._lock:
                if self._busy and is_inside(self):
                    raise reentrant(self.path)
                self._busy = True
                body()
                self._busy = False
        except BaseException:
            settle(self)
            raise

    def check_outside(self) -> None:
        """Raise ReentrantWriteError if this thread is in the middle of something here."""
        self._run(lambda: None)

    def begin(self) -> None:
        """Put down that this process writes, unless that is so. The caller has a shard's lock.

        :raises StoreDeletedError: the store was removed or replaced.
        """
        self._run(self._begin)

    def _begin(self) -> None:
        if not self.begun:
            in_gate(self.path, self._manifest.id, self._timeout, self._mark)

    def _join(self) -> None:
        path = self.path
        try:
            if self._file is None:
                self._file = open_beside(record_path(path), "r+", manifest_path(path))
            self._is_alone = attempt(self._file.fileno(), fcntl.LOCK_EX)  # nobody else is in the gate
            fcntl.flock(self._file.fileno(), fcntl.LOCK_SH)
        except OSError as error:
            raise path_error(error, record_path(path)) from error
        record = Record.read(path)
        if not record.is_open_now():
            record._replace(opened=now()).write(path)

    def _mark(self) -> None:
        self._join()
        path = self.path
        record = Record.read(path)
        least = self._durability
        if record.is_of_this_boot():
            least = min(least, record.durability, key=DURABILITIES.index)
        elif least == "everysec":
            try:
                self._cls.begin_journals(self._specs())
            except OSError as error:
                raise error if isinstance(error, RackError) else path_error(error, error.filename or path) from error
        if (record.boot, record.durability) != (boot.boot_id(), least):
            Record(boot.boot_id(), least, record.stamps, now()).write(path, sync=True)
        assert self._file is not None
        os.utime(self._file.fileno())  # which tells others that there is one more
        self._marked_at = os.fstat(self._file.fileno()).st_mtime_ns
        self._has_begun()
        self.begun = True  # last: an exception may cut this off

    def has_company(self) -> bool:
        """Return whether another process writes to the store, or has begun to since this one has."""
        file = self._file
        return not self._is_alone or (file is not None and os.fstat(file.fileno()).st_mtime_ns != self._marked_at)

    def rest(self) -> None:
        """Have it that this process writes no more; if it does, that begins anew."""
        self.begun = False

    def end(self, lock: StoreLock | None = None, synced: Sequence[int] = ()) -> None:
        """After :meth:`rest`: put the store down as clean if nobody writes to it, and have it on the disk first.

        :param lock: the store's, if it is being closed: others wait then until it is free, and nobody else has it open
            if it can be had exclusively.
        :param synced: stamps of the shards of which all is on the disk.
        """
        self._run(lambda: self._end(lock, synced))

    def _end(self, lock: StoreLock | None, synced: Sequence[int]) -> None:
        if self.begun:
            return  # another thread has begun to write
        path = self.path
        has_joined = self._file is not None
        record = Record.read(path)
        is_clean = not (record.opened or record.is_of_this_boot())
        if not is_clean:
            # Who gives up waiting leaves the store as one whose user was killed.
            with contextlib.suppress(StoreDeletedError, LockTimeoutError):
                is_clean = in_gate(path, self._manifest.id, self._timeout, lambda: self._clean(path, lock, synced))
        if has_joined and not is_clean and self._durability == "everysec":
            sync_paths([file for spec in self._specs() for file in self._cls.log_files(spec.path)])

    def _clean(self, path: str, lock: StoreLock | None, synced: Sequence[int]) -> bool:
        """Return whether nobody else may write, and so the store is clean now."""
        if self._file is None:
            try:
                self._file = FileIO(record_path(path), "r+")
            except OSError:
                return False  # a mere reader
        file = self._file.fileno()
        is_last = lock is not None and lock.identity() is not None and lock.claim()
        try:
            if not attempt(file, fcntl.LOCK_EX) or not (is_last or self._cls.stamped_when_open):
                return False
            record = Record.read(path)
            stamps = self._on_disk(path, record, synced) if record.boot else record.stamps
            with contextlib.suppress(RackError):  # no space to say so: it is recovered without need
                Record("", record.durability, stamps, now() if lock is None else "").write(path)
            return True
        finally:
            if lock is None:  # an attempt that fails loses the lock that was there
                fcntl.flock(file, fcntl.LOCK_SH)

    def _on_disk(self, path: str, record: Record, synced: Sequence[int]) -> tuple[int, ...]:
        """Have all that was written on the disk; return the stamps."""
        stamps = present_stamps(path, self._manifest)
        known, now = dict(enumerate(record.stamps)), dict(enumerate(synced))
        changed = [
            number
            for number, stamp in enumerate(stamps)
            # A log that was begun anew may be as long as the one before.
            if not self._cls.stamped_when_open or stamp not in (known.get(number), now.get(number))
        ]
        paths = [shard_path(path, number, self._cls.suffix) for number in changed]
        try:
            sync_paths([file for shard in paths for file in self._cls.unsynced_files(shard)])
        except OSError as error:
            if isinstance(error, RackError):
                raise
            raise path_error(error, error.filename or path) from error
        return stamps

    def close(self) -> None:
        """Hold the lock no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's: the lock is a copy of its."""
        self.close()
        self._lock = RLock()
        self._busy = False
        self.begun = False
