"""What the suites of containers share: one body of tests for any engine and number of shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rack import PersistentSet
from tests.conformance.model import KEYS, Place
from tests.conformance.raw import RawEngine


class ContainerSuite:
    """Supplies ``place``. Subclasses set ``engine`` and ``raw``."""

    engine: ClassVar[str]
    raw: ClassVar[RawEngine]

    @pytest.fixture(params=[1, 2, 7])
    def shards(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def place(self, tmp_path: Path, shards: int) -> Iterator[Place]:
        place = Place(tmp_path, self.engine, self.raw, shards)
        yield place
        place.finish()


both = pytest.mark.parametrize("kind", ["dict", "set"])


def opened(place: Place, kind: str, keys: list[Any] = KEYS, name: str = "store") -> Any:
    if kind == "set":
        return place.filled_set(set(keys), name)
    return place.filled_dict(dict.fromkeys(keys, 1), name)


def put(container: Any, key: Any) -> None:
    if isinstance(container, PersistentSet):
        container.add(key)
    else:
        container[key] = 1


def counted(taken: list[int]) -> Iterator[int]:
    for number in range(100_000):
        taken.append(number)
        yield number % 2
