"""Rack: persistent ``set`` and ``dict`` that many processes write at once.

>>> from rack import PersistentSet
>>> with PersistentSet(tmp / "seen") as seen:
...     seen.add("https://example.org/")
True
"""

from __future__ import annotations

from rack.system.imports import importing

TYPE_CHECKING = False  # as typing has it, without importing that
if TYPE_CHECKING:
    from typing import Any

    from rack.care.compact import compact
    from rack.care.increments import backup, restore
    from rack.care.listing import stores
    from rack.care.look import stat
    from rack.care.remove import exists, remove
    from rack.care.rename import rename
    from rack.care.repair import repair
    from rack.care.reshard import reshard
    from rack.care.verify import verify
    from rack.codec.canonical import register_key
    from rack.codec.digest import Digest
    from rack.dict import PersistentDict
    from rack.errors import (
        CorruptShardError,
        DeserializationError,
        DigestKeysError,
        LeaseLostError,
        LockTimeoutError,
        ManifestError,
        MismatchError,
        MissingLibraryError,
        NotOpenError,
        RackError,
        ReadOnlyError,
        ReentrantWriteError,
        SerializationError,
        ServerError,
        ServerTimeoutError,
        SnapshotLostError,
        StoreDeletedError,
        StoreExistsError,
        StoreFullError,
        StoreInUseError,
        StoreNotFoundError,
        StorePathError,
        TooLargeError,
        UnorderedKeysError,
        UnsupportedOperation,
        WorkerError,
    )
    from rack.queue import PersistentQueue
    from rack.set import PersistentSet

__version__ = "1.0.0"

__all__ = [
    "CorruptShardError",
    "DeserializationError",
    "Digest",
    "DigestKeysError",
    "LeaseLostError",
    "LockTimeoutError",
    "ManifestError",
    "MismatchError",
    "MissingLibraryError",
    "NotOpenError",
    "PersistentDict",
    "PersistentQueue",
    "PersistentSet",
    "RackError",
    "ReadOnlyError",
    "ReentrantWriteError",
    "SerializationError",
    "ServerError",
    "ServerTimeoutError",
    "SnapshotLostError",
    "StoreDeletedError",
    "StoreExistsError",
    "StoreFullError",
    "StoreInUseError",
    "StoreNotFoundError",
    "StorePathError",
    "TooLargeError",
    "UnorderedKeysError",
    "UnsupportedOperation",
    "WorkerError",
    "__version__",
    "backup",
    "compact",
    "exists",
    "register_key",
    "remove",
    "rename",
    "repair",
    "reshard",
    "restore",
    "stat",
    "stores",
    "verify",
]

#: The module of each name, imported when it is first asked for. So the command `rack` comes to its own first line,
#: where it sees to Ctrl-C, before anything else is imported.
_LATER = {
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "rack.errors"),
    "Digest": "rack.codec.digest",
    "UnsupportedOperation": "rack.errors",
    "PersistentDict": "rack.dict",
    "PersistentQueue": "rack.queue",
    "PersistentSet": "rack.set",
    "backup": "rack.care.increments",
    "compact": "rack.care.compact",
    "exists": "rack.care.remove",
    "register_key": "rack.codec.canonical",
    "remove": "rack.care.remove",
    "rename": "rack.care.rename",
    "repair": "rack.care.repair",
    "reshard": "rack.care.reshard",
    "restore": "rack.care.increments",
    "stat": "rack.care.look",
    "stores": "rack.care.listing",
    "verify": "rack.care.verify",
}

if not TYPE_CHECKING:  # a type checker would believe that any name is there

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with importing():
            from importlib import import_module

            found = globals()[name] = getattr(import_module(_LATER[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
