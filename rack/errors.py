"""The errors Rack raises.

Each one is a :class:`RackError` *and* the built-in exception that a caller of ``dict``, ``set`` or ``open`` would
catch. A missing key is a plain ``KeyError`` and an unhashable one a plain ``TypeError``, as in ``dict``.
"""

from __future__ import annotations

import os
from typing import Self


class RackError(Exception):
    """Base of every error that is Rack's own."""

    def __str__(self) -> str:
        # A path need not be UTF-8; what it has of other bytes is escaped, so that the message can be printed.
        return super().__str__().encode("utf-8", "backslashreplace").decode()

    #: The message in words alone, where the message itself speaks of arguments (``flag="c"``): for who gave none.
    words: str | None = None

    def in_words(self, words: str) -> Self:
        """Return the error, with its message in words alone."""
        self.words = words
        return self


def told(error: BaseException) -> str:
    """Return what an error says, in words alone."""
    words = getattr(error, "words", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    file = getattr(error, "filename", None)
    return f"{os.fsdecode(file)}: {words}" if isinstance(file, str | bytes) else words


class NotOpenError(RackError, ValueError):
    """The container, or a batch, was used before it was opened or after it was closed (as a file's ValueError)."""


class ReadOnlyError(RackError, PermissionError):
    """A write to a container that was opened with ``flag="r"``."""


class StoreNotFoundError(RackError, FileNotFoundError):
    """There is no store of that name, and the flag does not allow to make one."""


class StoreExistsError(RackError, FileExistsError):
    """An operation was to make a store where there is one already."""


class StoreDeletedError(RackError, FileNotFoundError):
    """The store's files were removed or replaced while it was open: what was written since is not in the new files."""


class StoreInUseError(RackError, BlockingIOError):
    """The operation replaces the store's files, and other processes have the store open."""


class StorePathError(RackError, OSError):
    """The store's files cannot be where ``name`` points: no such directory, no permission, a directory in the way."""


class StoreFullError(RackError, OSError):
    """No space for the operation: disk, quota or file-size limit. It has not happened, and the store stays usable."""


class ManifestError(RackError, ValueError):
    """The manifest is not one, is damaged, or was written by a newer Rack."""

    #: Whether it is the last: then it is not damaged.
    newer = False


class MismatchError(RackError, ValueError):
    """An argument contradicts what the store was made with. Both values are in the message."""


class CorruptShardError(RackError, OSError):
    """A shard's file is missing, truncated, foreign, swapped or damaged. The message names the file."""


class SerializationError(RackError, TypeError):
    """The key or value cannot be turned into bytes by the store's serializer."""


class DeserializationError(RackError, ValueError):
    """Stored bytes cannot be turned back into an object by the store's serializer."""


class UnorderedKeysError(RackError, TypeError):
    """The operation needs keys in order, and the order of this store's bytes is not that of its keys."""


class TooLargeError(RackError, OverflowError):
    """A key or value is larger than the engine can hold."""


class LockTimeoutError(RackError, TimeoutError):
    """``timeout=`` seconds went by without the shard's writer lock. The operation has not happened and will not."""

    #: Who has the lock, and which one it is, where that is known: "process 4711, which has the lock of data/seen.rack".
    waited_for: str | None = None


class WorkerError(RackError, RuntimeError):
    """A worker process of an operation with ``workers=`` ended without an answer. The operation was not finished."""


class SnapshotLostError(RackError, RuntimeError):
    """The snapshot could not be kept any longer, or is of this process's parent: what it showed is not to be had."""


class ReentrantWriteError(RackError, RuntimeError):
    """A serializer used the store from inside one of the store's own writes."""
