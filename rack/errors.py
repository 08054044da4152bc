"""The errors Rack raises.

Each one is a :class:`RackError` *and* the built-in exception that a caller of ``dict``, ``set`` or ``open`` would
catch. A missing key is a plain ``KeyError`` and an unhashable one a plain ``TypeError``, as in ``dict``.
"""

from __future__ import annotations

import io
import os
from typing import Self


class RackError(Exception):
    """Base of every error that is Rack's own.

    >>> from rack import PersistentSet, RackError
    >>> try:
    ...     PersistentSet(tmp / "absent", flag="r").open()
    ... except RackError as error:
    ...     type(error).__name__, isinstance(error, FileNotFoundError)
    ('StoreNotFoundError', True)
    """

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
    """The container, or a batch, was used before it was opened or after it was closed.

    A ValueError, as for a closed file. Use it inside its ``with`` block.
    """


class ReadOnlyError(RackError, PermissionError):
    """A write to a container that was opened with ``flag="r"``, to a snapshot, or to files that may only be read.

    Nothing was written.
    """


class StoreNotFoundError(RackError, FileNotFoundError):
    """There is no store of that name, and the flag does not allow to make one; or its directory does not exist."""


class StoreExistsError(RackError, FileExistsError):
    """An operation was to make a store where there is one already. That one is as it was."""


class StoreDeletedError(RackError, FileNotFoundError):
    """The store's files were removed or replaced while it was open: what was written since is not in the new files.

    It is noticed at the latest when the store is closed. Open the store again.
    """


class StoreInUseError(RackError, BlockingIOError):
    """The operation needs the store for itself, and other processes have it open. The message names them.

    Opening with ``flag="n"``, a change to or from durability "everysec", and :func:`rack.repair` need that. Nothing was
    changed.
    """


class StorePathError(RackError, OSError):
    """The store's files cannot be where ``name`` points: no permission, a directory in the way, too many open files."""


class StoreFullError(RackError, OSError):
    """No space for the operation: disk, quota or file-size limit. It has not happened, and the store stays usable.

    Of an operation on many entries, the blocks before are written.
    """


class ManifestError(RackError, ValueError):
    """The manifest (``NAME.rack``) is not one, is damaged, or was written by a newer Rack.

    A damaged one is no obstacle for :func:`rack.repair`.
    """

    #: Whether it is the last: then it is not damaged.
    newer = False


class MismatchError(RackError, ValueError):
    """An argument contradicts what the store was made with. Both values are in the message."""


class CorruptShardError(RackError, OSError):
    """A shard's file is missing, truncated, foreign, swapped or damaged. The message names the file.

    :func:`rack.verify` tells all that is wrong, and :func:`rack.repair` saves what can be read.
    """


class SerializationError(RackError, TypeError):
    """The key or value cannot be turned into bytes by the store's serializer. It was not written."""


class DeserializationError(RackError, ValueError):
    """Stored bytes cannot be turned back into an object by the store's serializer.

    A class is missing, or the serializer is not the one that wrote them; or they are damaged. They stay as they are.
    """


class UnorderedKeysError(RackError, TypeError):
    """The operation needs keys in order, and the order of this store's bytes is not that of its keys.

    ``scan`` needs a store that was made with the key serdes "str", "bytes" or "ordered".
    """


class DigestKeysError(RackError, TypeError):
    """The operation needs keys that are whole, and there are only digests of them. Nothing was written.

    A key cannot be had back from its digest. So no store with whole keys can be made of one with the key serdes
    "digest", nor one with digests of another kind.
    """


class TooLargeError(RackError, OverflowError):
    """A key or value is larger than the engine can hold. It was not written."""


class UnsupportedOperation(RackError, io.UnsupportedOperation):
    """The store's engine, or its layout, cannot do this. The message says what to do instead. Nothing was changed.

    A store on a server keeps no earlier states, so it has no ``snapshot()``; ``scan`` there needs the ordered layout.
    """


class MissingLibraryError(RackError, ModuleNotFoundError):
    """The store's engine needs a library that is not installed. The message says how to install it."""


class ServerError(RackError, ConnectionError):
    """The server of a store cannot be reached, or does not let this user do that.

    Of a write it is not known whether it has happened, if the connection was lost in the middle of it.
    """


class ServerTimeoutError(RackError, TimeoutError):
    """The servers of a store did not answer within ``timeout=`` seconds, or 30 if none were given.

    A write may have happened, or still happen when a server that hangs goes on.
    """


class LockTimeoutError(RackError, TimeoutError):
    """``timeout=`` seconds went by without the lock that the operation needs. It has not happened and will not.

    Of an operation on many entries, the blocks before are written.
    """

    #: Who has the lock, and which one it is, where that is known: "process 4711, which has the lock of data/seen.rack".
    waited_for: str | None = None


class LeaseLostError(RackError, TimeoutError):
    """The lease of a job has ended, and the job was taken back: it waits again, or somebody else has claimed it.

    What the caller did for it may be done once more. A longer ``lease=``, or ``extend()`` in time, avoids that. It is
    raised as well for a job that is over: done, released or failed, and for one that :meth:`clear` has removed.
    """


class WorkerError(RackError, RuntimeError):
    """A worker process of an operation with ``workers=`` ended without an answer. The operation was not finished.

    What makes a new store has made none. What changes a store has changed a part of it.
    """


class SnapshotLostError(RackError, RuntimeError):
    """The snapshot could not be kept any longer, or belongs to the process that this one was forked from.

    What it showed cannot be had any more: take another snapshot.
    """


class ReentrantWriteError(RackError, RuntimeError):
    """A serializer used the store from inside one of the store's own writes. That must not be."""
