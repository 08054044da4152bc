"""Rack: persistent ``set`` and ``dict`` that many processes write at once.

>>> from rack import PersistentSet
>>> with PersistentSet(tmp / "seen") as seen:
...     seen.add("https://example.org/")
True
"""

from __future__ import annotations

from rack.codec.canonical import register_key
from rack.dict import PersistentDict
from rack.errors import (
    CorruptShardError,
    DeserializationError,
    LockTimeoutError,
    ManifestError,
    MismatchError,
    NotOpenError,
    RackError,
    ReadOnlyError,
    ReentrantWriteError,
    SerializationError,
    SnapshotLostError,
    StoreDeletedError,
    StoreExistsError,
    StoreFullError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
    TooLargeError,
    UnorderedKeysError,
    WorkerError,
)
from rack.set import PersistentSet

__version__ = "1.0.0"

__all__ = [
    "CorruptShardError",
    "DeserializationError",
    "LockTimeoutError",
    "ManifestError",
    "MismatchError",
    "NotOpenError",
    "PersistentDict",
    "PersistentSet",
    "RackError",
    "ReadOnlyError",
    "ReentrantWriteError",
    "SerializationError",
    "SnapshotLostError",
    "StoreDeletedError",
    "StoreExistsError",
    "StoreFullError",
    "StoreInUseError",
    "StoreNotFoundError",
    "StorePathError",
    "TooLargeError",
    "UnorderedKeysError",
    "WorkerError",
    "__version__",
    "register_key",
]
