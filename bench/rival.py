"""What a contestant is: opens a store in an empty directory and runs the loops that are timed.

Loops of dict-likes are the same code (:class:`DictRival`), so that the overhead of the loop is the same for all.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

Kind = Literal["dict", "set"]
Pairs = list[tuple[str, int]]


class Rival(ABC):
    """A contestant. An instance is a configuration until :meth:`open`, and can be pickled to a worker."""

    name: ClassVar[str]
    module: ClassVar[str]
    share: ClassVar[float] = 1.0  # of the operations that Rack does in a benchmark; slow ones get fewer
    processes: ClassVar[bool] = True  # many processes may write one store

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.name

    def version(self) -> str | None:
        """Version of the library, or None if it is not installed."""
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            return None
        try:
            return str(getattr(module, "__version__", None) or importlib.metadata.version(self.module))
        except importlib.metadata.PackageNotFoundError:
            return "of unknown version"

    @abstractmethod
    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        """Open or create the store in `directory`; at most about `capacity` entries will be put there."""

    @abstractmethod
    def close(self) -> None:
        """Close the store."""

    @abstractmethod
    def count(self) -> int:
        """Entries in the store."""

    @abstractmethod
    def set(self, pairs: Pairs) -> None:
        """Set each pair by an operation of its own."""

    @abstractmethod
    def get(self, keys: list[str]) -> Any:
        """Get each key, which is there; the last one's value."""

    @abstractmethod
    def contains(self, keys: list[str]) -> int:
        """How many of the keys are there, asked one by one."""

    @abstractmethod
    def add(self, keys: list[str]) -> int:
        """Add each key if it is absent; how many were."""

    @abstractmethod
    def update(self, pairs: Pairs) -> None:
        """Set all pairs the best way this library has for many."""

    @abstractmethod
    def iterate(self, values: bool) -> int:
        """Go over all keys, or all keys with their values; how many there were."""


class DictRival(Rival):
    """A contestant that is used as a dict."""

    d: Any

    def close(self) -> None:
        self.d.close()

    def count(self) -> int:
        return len(self.d)

    def set(self, pairs: Pairs) -> None:
        d = self.d
        for key, value in pairs:
            d[key] = value

    def get(self, keys: list[str]) -> Any:
        d = self.d
        value = None
        for key in keys:
            value = d[key]
        return value

    def contains(self, keys: list[str]) -> int:
        d = self.d
        found = 0
        for key in keys:
            if key in d:
                found += 1
        return found

    def add(self, keys: list[str]) -> int:
        """Test, then set: two operations, and between processes not atomic. The best that most of these have."""
        d = self.d
        new = 0
        for key in keys:
            if key not in d:
                d[key] = 1
                new += 1
        return new

    def update(self, pairs: Pairs) -> None:
        self.d.update(pairs)

    def iterate(self, values: bool) -> int:
        count = 0
        if values:
            for _key, _value in self.d.items():
                count += 1
        else:
            for _key in self.d:
                count += 1
        return count
