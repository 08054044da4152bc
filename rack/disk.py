"""Having what was written on the disk. On macOS ``fsync`` leaves it in the drive's cache; F_FULLFSYNC does not."""

from __future__ import annotations

import fcntl
import os
import sys

if sys.platform == "darwin":

    def sync_file(fd: int) -> None:
        """Return when everything written to the file, by anyone, is on the disk."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def sync_file(fd: int) -> None:
        """Return when everything written to the file, by anyone, is on the disk."""
        os.fdatasync(fd)


def sync_path(path: str) -> None:
    """Return when everything written to the file at ``path``, by anyone, is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Return when what was made, renamed and removed in the directory is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
