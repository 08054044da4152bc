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

    from rack.care.repair import repair
    from rack.care.verify import verify
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
    "repair",
    "verify",
]

#: The module of each name, imported when it is first asked for. So the command `rack` comes to its own first line,
#: where it sees to Ctrl-C, before anything else is imported.
_LATER = {
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "rack.errors"),
    "PersistentDict": "rack.dict",
    "PersistentSet": "rack.set",
    "register_key": "rack.codec.canonical",
    "repair": "rack.care.repair",
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
