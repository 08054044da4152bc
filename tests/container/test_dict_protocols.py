"""What subclasses of `dict` and its views have beside methods: `__missing__` and `mapping`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from rack import PersistentDict
from tests.container.test_subclasses import Counts
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

T = TypeVar("T")
LIMIT = 60


class Lists(PersistentDict[str, list[int]]):
    asked: ClassVar[list[Any]] = []

    def __missing__(self, key: str) -> list[int]:
        self.asked.append(key)
        self[key] = value = [len(self)]
        return value


def test_missing_is_asked_by_square_brackets_alone(tmp_path: Path) -> None:
    Lists.asked.clear()
    with Lists(tmp_path / "d", shards=2) as d:
        assert d["a"] == [0]
        assert d["a"] == [0]
        assert Lists.asked == ["a"]
        assert d.get("b") is None
        assert "b" not in d
        assert d.pop("b", 5) == 5  # type: ignore[call-overload]
        with pytest.raises(KeyError):
            d.pop("b")
        assert d.get_many(["b"]) == {}
        for part in d.shards():
            with pytest.raises(KeyError):
                part["b"]
        assert ("b", 1) not in d.items()
        assert dict(d) == {"a": [0]}
        assert d == {"a": [0]}
        assert Lists.asked == ["a"]
        with pytest.raises(TypeError, match="unhashable"):
            d[[]]  # type: ignore[index]


def test_missing_gets_keys_that_the_store_cannot_hold(tmp_path: Path) -> None:
    with Counts(tmp_path, "mine") as d:
        assert d[object()] == 0  # type: ignore[index]
    with PersistentDict[Any, Any](tmp_path / "plain") as plain:
        for key in ("absent", object()):
            with pytest.raises(KeyError) as caught:
                plain[key]
            assert caught.value.args == (key,)
            assert caught.value.__suppress_context__
        plain.__missing__ = lambda key: 1  # type: ignore[attr-defined]  # of the class, as with dict
        with pytest.raises(KeyError):
            plain["absent"]


def test_views_show_their_mapping(tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "d", shards=2) as d:
        d.update(a=1, b=2)
        for view in (d.keys(), d.values(), d.items()):
            mapping = view.mapping
            assert type(mapping) is type({}.keys().mapping)
            assert (mapping["a"], mapping.get("x"), "b" in mapping, len(mapping), dict(mapping)) == (
                *(1, None, True, 2, {"a": 1, "b": 2}),
            )
            with pytest.raises(TypeError):
                mapping["a"] = 3  # type: ignore[index]
            d["c"] = 3
            assert mapping["c"] == 3
            del d["c"]
        part = next(part for part in d.shards() if "a" in part)
        assert part.keys().mapping["a"] == 1
