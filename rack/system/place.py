"""Files among others: where an open one is now, whose a new one is to be, where a temporary one may be."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from io import FileIO

from rack.system.imports import importing

_LONGEST_NAME = 150  # bytes, which leave room for what is put behind a name; file systems take 255
_F_GETPATH = 50  # macOS


def path_of(fd: int) -> str | None:
    """Return the path of an open file or directory as it is now; None if it was removed, or nobody tells."""
    try:
        if sys.platform == "linux":
            path = os.readlink(f"/proc/self/fd/{fd}")
        else:
            path = os.fsdecode(fcntl.fcntl(fd, _F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return path if os.path.samestat(os.stat(path), os.fstat(fd)) else None
    except OSError:
        return None


def file_id(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def may_write(path: str) -> bool:
    """Return whether this process may write to a file, or make files in a directory."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def is_readonly_medium(path: str) -> bool:
    """Return whether nobody can write to a file."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def scratch_path(beside: str, kind: str, anywhere: bool = True) -> str:
    """Return a path that nobody uses, beside another; in the temporary directory if that one cannot be written to.

    :param anywhere: False: beside the other one in any case.
    """
    directory, name = os.path.split(beside)
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = "rack"
    if anywhere and not may_write(directory):
        with importing():
            from tempfile import gettempdir

            directory = gettempdir()  # which has a lock of its own, the first time
    return os.path.join(directory, f"{name}-{kind}-{os.urandom(6).hex()}")


def open_beside(path: str, mode: str, model: str) -> FileIO:
    """Open a file that goes with another one, ``model``, whose owner, group and mode it gets if it has to be made.

    :param mode: "r" or "r+".
    :returns: the file, which is closed even if an exception comes at the worst moment.
    :raises PermissionError: it has to be made, by somebody who may not write to the other one: that would lock out
        those who may.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return FileIO(path, mode)
        try:
            status = os.stat(model)
        except FileNotFoundError:
            status = None
        if status is not None and not may_make(model, status):
            raise PermissionError(errno.EACCES, "not there, and not to be made by who may only read", path)
        with contextlib.suppress(FileExistsError):  # another process has just made it
            file = FileIO(path, "x+")
            if status is not None:
                take_after(file.fileno(), status)
            return file


def may_make(model: str, status: os.stat_result) -> bool:
    """Return whether what this process makes beside a file locks out nobody who may write to that."""
    return os.geteuid() in (0, status.st_uid) or may_write(model)


def take_after(fd: int, model: os.stat_result) -> None:
    """Give a new file the owner, the group and the mode of another one, as far as this process may."""
    own = os.fstat(fd)
    if (own.st_uid, own.st_gid) != (model.st_uid, model.st_gid):
        try:
            os.fchown(fd, model.st_uid, model.st_gid)
        except PermissionError:
            with contextlib.suppress(PermissionError):
                os.fchown(fd, -1, model.st_gid)
    mode = stat.S_IMODE(model.st_mode) & 0o666 | 0o600
    if stat.S_IMODE(own.st_mode) != mode:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, mode)


def take_after_path(path: str, model: str) -> None:
    """As :func:`take_after`, for files that are closed; nothing is done if ``model`` is not there."""
    with FileIO(path) as file, contextlib.suppress(FileNotFoundError):
        take_after(file.fileno(), os.stat(model))
