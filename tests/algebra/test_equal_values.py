"""Whether values are equal does not depend on the shape of the stores that hold them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.algebra.compare import compare
from tests.support.processes import engine as engine

NAN = float("nan")
SHAPES: list[dict[str, Any]] = [
    {"shards": 1},
    {"shards": 7},
    {"shards": 1, "key_serdes": "str"},
]
#: Values by serdes. Each is made anew by each call, or is the same object each time: the bytes may differ then.
VALUES: dict[str, list[Callable[[], Any]]] = {
    "marshal": [
        lambda: 1,
        lambda: True,
        lambda: 2.0,
        lambda: NAN,
        lambda: float("nan"),
        lambda: -float("nan"),
        lambda: (NAN, 1),
        lambda: ("".join(["a", "b"]), float("nan")),
        lambda: frozenset([float("nan")]),
        lambda: complex(0, float("nan")),
        lambda: None,
        lambda: "x",
    ],
    "pickle": [lambda: NAN, lambda: (float("nan"), NAN), lambda: Decimal("nan"), lambda: Decimal(1), lambda: object],
}
OPERATORS = (operator.and_, operator.or_, operator.sub, operator.xor)
COMPARISONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt)


def content(serdes: str, without: int = -1) -> dict[str, Any]:
    return {f"k{at}": make() for at, make in enumerate(VALUES[serdes]) if at != without}


@pytest.mark.parametrize("serdes", VALUES)
def test_equality_does_not_depend_on_the_shape(tmp_path: Path, serdes: str, engine: str) -> None:
    with ExitStack() as stack:

        def made(content: dict[str, Any], **options: Any) -> Any:
            name = tmp_path / f"store {next(numbers)}"
            store = stack.enter_context(PersistentDict(name, serdes=serdes, **options))
            store.update(content)
            return store

        numbers = itertools.count()
        mine = made(content(serdes), **SHAPES[0])
        less = content(serdes, without=0)
        swapped = dict(zip(less, [*list(less.values())[1:], less["k1"]], strict=True))
        for other_content in (content(serdes), less, swapped):
            answers: list[Any] = []
            for shape in SHAPES:
                other = made(other_content, **shape)
                counts = compare(mine, other)
                answer: list[Any] = [mine == other, other == mine, counts]
                answer += [compared(mine.items(), other.items()) for compared in COMPARISONS]
                answer += [compared(other.items(), mine.items()) for compared in COMPARISONS]
                answer.append(mine.items().isdisjoint(other.items()))
                answer.append(sorted((item[0], item in mine.items()) for item in other.items()))
                answer.append(sorted((key, value in mine.values()) for key, value in other.items()))
                for operate in OPERATORS:
                    for one, two in ((mine, other), (other, mine)):
                        with operate(one.items(), two.items()) as result:
                            answer.append(sorted(map(repr, result)))
                answers.append(answer)
                other.close()
            assert answers[0] == answers[1] == answers[2]
            assert answers[0][0] is (other_content.keys() == content(serdes).keys())


def test_values_that_are_stored_alike_are_equal(tmp_path: Path) -> None:
    with PersistentDict[str, Any](tmp_path / "store") as store:
        store.update(a=NAN, b=[NAN], c=1)
        assert store == {"a": float("nan"), "b": [float("nan")], "c": 1.0}
        assert ("a", float("nan")) in store.items()
        assert [NAN] in store.values()
        assert [2] not in store.values()
        assert object() not in store.values()
        assert ("a", object()) not in store.items()
        assert not store.items().isdisjoint([("a", NAN)])
        assert store.compare_and_set("a", NAN, 5)
        assert store["a"] == 5
        assert not store.compare_and_set("a", object(), 6)


def test_items_that_are_no_elements_matter_only_if_they_come_out(tmp_path: Path) -> None:
    with PersistentDict[str, Any](tmp_path / "mine", shards=1) as mine:
        mine.update(a=[1], b=[NAN], c=2)
        for shards in (1, 7):
            with PersistentDict[str, Any](tmp_path / f"other {shards}", shards=shards) as other:
                other.update(a=[1], b=[NAN], c=3)
                with mine.items() - other.items() as result:
                    assert list(result) == [("c", 2)]
                with mine.items() ^ other.items() as result:
                    assert sorted(result) == [("c", 2), ("c", 3)]
