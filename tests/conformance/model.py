"""Comparing a container with the built-in one: same results, same exceptions."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rack import PersistentDict, PersistentSet
from rack.container.base import Container
from tests.conformance.raw import RawEngine

# One of each kind of key: equal to nothing else here, of every type that marshal holds, short, empty, long.
KEYS: list[Any] = [
    *("a", "b", "", "\u00e9\u6f22\U0001f600", "\udcff", "long" * 300, "nul\0", "x" * 508),
    *(b"a", b"", b"\xff" * 600),
    *(0, 1, -1, 2, 255, 2**31, -(2**63), 2**200, 1.5, -0.25, 1e-300, float("inf"), 3 + 4j),
    *(None, (), ("a",), (1, ("a", b"b"), None), frozenset(), frozenset({1, "a"}), ("t" * 300, "u" * 300)),
]
VALUES: list[Any] = [None, 0, "", "v", [1, [2]], {"k": (1, 2)}, b"\0" * 5000, 1.5, {1, 2}, "w" * 600]


class Place:
    """A directory of stores of one engine and shard count; everything opened here is checked and closed in the end."""

    def __init__(self, directory: Path, engine: str, raw: RawEngine, shards: int) -> None:
        self.directory = directory
        self.engine = engine
        self.raw = raw
        self.shards = shards
        self._opened: list[Container] = []

    def dict(self, name: str = "store", **options: Any) -> PersistentDict[Any, Any]:
        """Return a container that is not open."""
        return self._tracked(PersistentDict(self.directory / name, **self._shape(options)))

    def set(self, name: str = "store", **options: Any) -> PersistentSet[Any]:
        return self._tracked(PersistentSet(self.directory / name, **self._shape(options)))

    def _shape(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"shards": self.shards, "engine": self.engine} | options

    def _tracked(self, container: Any) -> Any:
        self._opened.append(container)
        return container

    def filled_dict(self, content: dict[Any, Any], name: str = "store", **options: Any) -> PersistentDict[Any, Any]:
        """Return an open dict whose content was put there behind Rack's back."""
        made = self.dict(name, **options)
        with made:
            pass
        pairs = [(dumped(key), marshal.dumps(value)) for key, value in content.items()]
        self.raw.write_store(self.directory / name, self.shards, pairs)
        return made.open()

    def filled_set(self, content: set[Any], name: str = "store", **options: Any) -> PersistentSet[Any]:
        made = self.set(name, **options)
        with made:
            pass
        self.raw.write_store(self.directory / name, self.shards, [(dumped(element), b"") for element in content])
        return made.open()

    def stored(self, container: Any) -> Any:
        """Return what is in the files: a dict or a set."""
        depth = len(container._openings)
        for _ in range(depth):
            container.close()
        try:
            entries = self.raw.read_store(Path(container._path), self.shards)
        finally:
            for _ in range(depth):
                container.open()
        if isinstance(container, PersistentSet):
            assert set(entries.values()) <= {b""}
            return {marshal.loads(key) for key in entries}
        return {marshal.loads(key): marshal.loads(value) for key, value in entries.items()}

    def finish(self) -> None:
        try:
            for container in self._opened:
                if not container.closed:
                    container.check()
        finally:
            for container in self._opened:
                while not container.closed:
                    container.close()
        assert not self.anonymous(), "an anonymous store was left behind"

    def anonymous(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if "anonymous" in path.name)


def dumped(key: Any) -> bytes:
    """Return the bytes of a key as the format has them: marshal, version 2."""
    return marshal.dumps(key, 2)


def same(expected: Callable[[], Any], actual: Callable[[], Any], what: object = "") -> None:
    """Assert that both give equal results, or raise the same exception."""
    result, found = outcome(expected), outcome(actual)
    if isinstance(result, Exception):
        assert isinstance(found, type(result)), f"{what}: {found!r} instead of {result!r}"
        if isinstance(result, KeyError):
            assert (type(found), found.args) == (KeyError, result.args), what
    else:
        assert found == result, what
        assert type(found) is type(result), what


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or its exception."""
    try:
        return plain(call())
    except Exception as error:
        return error


def plain(result: Any) -> Any:
    """Return a result as a built-in object; a container that an operation made is closed."""
    if isinstance(result, PersistentSet):
        with result:
            result.check()
            return set(result)
    if isinstance(result, PersistentDict):
        with result:
            result.check()
            return dict(result.items())
    if isinstance(result, frozenset):
        return set(result)
    return list(result) if isinstance(result, Iterator) else result
