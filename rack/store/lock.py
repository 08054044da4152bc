"""``NAME.rack-lock``: held shared by every process that has the store open, exclusively by one that replaces files.

A flock belongs to the open file description, which a fork shares. A child therefore closes its copy, which leaves the
parent's lock alone, and takes a lock of its own; it never unlocks the inherited one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import time

from rack.errors import StoreInUseError
from rack.store.manifest import manifest_path
from rack.system.descriptor import Descriptor
from rack.system.disk import keep_room, path_error
from rack.system.flock import attempt, flock_within, holders, pause
from rack.system.place import file_id, open_beside, path_of

_SUFFIX = ".rack-lock"
ROOM_STEP = 16 << 10  # bytes, of which a shard needs one or two to be emptied
PATIENCE = 0.5  # seconds for those who have the store open without using it: they look whether it is there, or let go
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


def lock_path(path: str) -> str:
    return path + _SUFFIX


class StoreLock:
    """The lock of the store at ``path``. Not thread-safe: the registry's lock is held around its use."""

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = lock_path(path)
        self._readonly = readonly
        self._file: io.FileIO | None = None  # closed with it, if an exception keeps it from being closed
        self._folder = Descriptor()  # while the file is not open in a forked child

    @property
    def _fd(self) -> int | None:
        return None if self._file is None else self._file.fileno()

    def _open(self) -> int | None:
        if self._file is None:
            try:
                if self._readonly:
                    self._file = io.FileIO(self.path)
                else:
                    self._file = open_beside(self.path, "r+", manifest_path(self.path.removesuffix(_SUFFIX)))
            except OSError as error:
                if self._readonly:
                    return None  # a store on read-only media has no lock file to hold, and nobody who replaces files
                raise path_error(error, self.path) from error
        return self._fd

    def share(self, timeout: float | None = None) -> None:
        """Hold the lock shared; waits for a process that creates the store or replaces its files."""
        fd = self._open()
        if fd is None:
            return
        flock_within(timeout, fd, fcntl.LOCK_SH, self.path)

    def claim(self) -> bool:
        """Hold the lock exclusively if no other process holds it."""
        claimed = self._attempt(fcntl.LOCK_EX)
        if claimed and self._fd is not None and not self._readonly:
            with contextlib.suppress(OSError):
                os.utime(self._fd)  # so that one who rests finds out; see left_at()
        return claimed

    def rest(self) -> None:
        """Hold the lock no more, and keep the file open."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def left_at(self) -> tuple[int, int] | None:
        """Return what changes whenever somebody has had the lock exclusively, as all have who change the files."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def share_again(self) -> bool:
        """Hold the lock shared, after :meth:`rest`, if nobody has it exclusively."""
        return self._fd is not None and attempt(self._fd, fcntl.LOCK_SH) and self.is_current()

    def claim_or_raise(self, purpose: str) -> None:
        """Hold the lock exclusively, or raise StoreInUseError with the processes in the way."""
        deadline = time.monotonic() + PATIENCE
        patience = time.monotonic() + 30  # and one who has it exclusively makes it, or has it on the disk and closes it
        while not self.claim():
            now = time.monotonic()
            if now > patience or (now > deadline and self._attempt(fcntl.LOCK_SH)):
                break
            pause()
        else:
            return
        raise StoreInUseError(
            errno.EBUSY, f"cannot {purpose}: the store is open in {holders(self.path)}; close it there first", self.path
        )

    def alone(self) -> bool:
        """Hold the lock exclusively if nobody has the store open, and return True; else do not hold it.

        Who opens the store waits as long as the lock is held exclusively. A store without a lock file is open nowhere.
        """
        if self._open() is None:
            return not os.path.lexists(self.path)
        if self.claim():
            return True
        self.close()  # the last one to close the store is to find itself alone
        return False

    def _attempt(self, kind: int) -> bool:
        fd = self._open()
        assert fd is not None
        return attempt(fd, kind)

    def is_current(self) -> bool:
        """Return whether the file at the path is the one that is locked."""
        if self._fd is None:
            return self._readonly
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def where(self) -> str:
        """Return the path of the store as it is now: its folder may have been renamed, or a link to it switched."""
        found = None
        if self._fd is not None:
            found = None if self.is_current() else path_of(self._fd)
        elif self._folder.is_open and (folder := path_of(self._folder.fileno())) is not None:
            found = os.path.join(folder, os.path.basename(self.path))
        if found is not None and found.endswith(_SUFFIX):
            self.path = found
        return self.path.removesuffix(_SUFFIX)

    def identity(self) -> tuple[int, int] | None:
        """Return (device, inode) of the file, None if there is none to hold."""
        return None if self._fd is None else file_id(os.fstat(self._fd))

    # The file holds room on the disk, for removing entries when the disk is full.

    def keep_room(self, size: int) -> None:
        """Have the file so long, if there is room; the caller may write to the store."""
        assert self._fd is not None
        keep_room(self._fd, size)

    def give_room(self) -> bool:
        """Give up some of the room; return False if there is none. Others may take it, but it is too little to put."""
        size = 0 if self._fd is None else os.fstat(self._fd).st_size
        if size:
            assert self._fd is not None
            os.ftruncate(self._fd, max(0, size - ROOM_STEP))
        return size > 0

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's lock, and keep track of where the store is."""
        folder = os.path.dirname(self.where())
        self.close()
        with contextlib.suppress(OSError):
            self._folder.open(os.open, folder, _FOLDER)

    def remove(self) -> None:
        """Remove the file if no other process holds it: of a store that could not be made."""
        with contextlib.suppress(OSError):
            # It may be that an exception came when the file was just made, and not noted.
            if (self._file is not None or os.path.lexists(self.path)) and self.claim() and self.is_current():
                os.unlink(self.path)

    def close(self) -> None:
        """Release the lock (in a forked child: the child's copy of it)."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._folder.close()
