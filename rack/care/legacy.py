"""Reads the stores of Rack 0.1, so that ``rack copy`` can bring them along.

A store of 0.1 is one file, ``NAME`` and its engine's suffix, and no manifest. Keys and values are marshalled.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from rack.errors import CorruptShardError, DeserializationError, StoreNotFoundError
from rack.shard import ENGINES, shard_class
from rack.system.imports import importing


class LegacyStore:
    """A store of Rack 0.1: ``kind`` is "dict" or "set"."""

    def __init__(self, path: str, kind: str, file: Any) -> None:
        self.path = path
        self.kind = kind
        self._file = file

    def __len__(self) -> int:
        count: int = self._file.count()
        return count

    def entries(self) -> Iterator[Any]:
        """Yield the pairs of a dict, or the elements of a set."""
        for record in self._file.records():
            try:
                loaded = tuple(map(marshal.loads, record))
            except (ValueError, EOFError, TypeError) as error:
                raise DeserializationError(
                    f"{self.path}: {record[0][:60]!r} is not marshalled ({error}): the store was made with a serdes of"
                    " its own. Read it with Rack 0.1 and that serdes, and update() a new store with it"
                ) from error
            yield loaded if self.kind == "dict" else loaded[0]


def is_file_name(name: str) -> bool:
    """Whether a file of that name may be a store of Rack 0.1."""
    return name.endswith(tuple(shard_class(engine).suffix for engine in ENGINES))


def find(name: str) -> LegacyStore:
    """Return the store that Rack 0.1 calls ``name``; its file's name does too.

    :raises StoreNotFoundError: there is none.
    :raises CorruptShardError: its file cannot be read, or is something else.
    """
    engines = {shard_class(engine).suffix: engine for engine in ENGINES}
    files = [name] if is_file_name(name) else [name + suffix for suffix in engines]
    found = [file for file in files if os.path.isfile(file)]
    if not found:
        raise StoreNotFoundError(f"there is no store {name!r}: neither {name}.rack nor one of Rack 0.1")
    if len(found) > 1:
        raise StoreNotFoundError(f"Rack 0.1 has two stores {name!r}; name one of them: {' or '.join(found)}")
    engine = engines[os.path.splitext(found[0])[1]]
    with importing():
        module = import_module(f"{ENGINES[engine]}.legacy")
    file = module.LegacyFile(found[0])
    if file.kind is None:
        raise CorruptShardError(f"{found[0]} is not a store of Rack 0.1: it has other tables")
    return LegacyStore(found[0], file.kind, file)
