"""What the views of a PersistentDict promise: live, and with the set operations of the views of ``dict``."""

from __future__ import annotations

import operator
from collections.abc import Callable, ItemsView, KeysView, Set, ValuesView
from typing import Any

import pytest

from rack import PersistentDict
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.model import Place, dumped, same

MODEL: dict[Any, Any] = {"a": 1, "b": (2, "x"), 1: None, ("t", 1): "v", "long" * 300: 2.5, 2.5: b"y"}
SET_OPERATORS = [operator.or_, operator.and_, operator.sub, operator.xor]
COMPARISONS = [operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt]
both = pytest.mark.parametrize("view", ["keys", "items"])


class ViewsSuite(ContainerSuite):
    @pytest.fixture
    def d(self, place: Place) -> PersistentDict[Any, Any]:
        return place.filled_dict(MODEL)

    @pytest.mark.parametrize(("view", "abc"), [("keys", KeysView), ("items", ItemsView), ("values", ValuesView)])
    def test_views_are_live_ordered_and_reversible(self, d: Any, view: str, abc: type) -> None:
        seen = getattr(d, view)()
        assert isinstance(seen, abc)
        assert isinstance(seen, Set) == (view != "values")
        model = dict(MODEL)
        for _ in range(2):
            ordered = {key: model[key] for key in sorted(model, key=dumped)}
            assert list(seen) == list(getattr(ordered, view)())
            assert list(reversed(seen)) == list(reversed(list(seen)))
            assert len(seen) == len(model)
            d["new"] = model["new"] = 5
        assert d.check() == len(model)

    def test_in_answers_as_in_the_views_of_dict(self, d: Any) -> None:
        model = MODEL
        for key in ("a", 1, 1.0, True, "x", ("t", 1), [], "long" * 300):
            same(lambda k=key: k in model.keys(), lambda k=key: k in d.keys(), key)  # noqa: SIM118
        for item in (
            ("a", 1),
            ("a", 1.0),
            ("a", 2),
            ("x", 1),
            ("a",),
            ("a", 1, 2),
            "ab",
            5,
            None,
            ["a", 1],
            ([], 1),
            (1, None),
        ):
            same(lambda i=item: i in model.items(), lambda i=item: i in d.items(), item)
        for value in (1, 1.0, None, "v", (2, "x"), [2, "x"], "absent", {}):
            same(lambda v=value: v in model.values(), lambda v=value: v in d.values(), value)

    @both
    @pytest.mark.parametrize("op", SET_OPERATORS, ids=lambda op: op.__name__)
    def test_set_operations_answer_as_those_of_the_views_of_dict(
        self, d: Any, place: Place, view: str, op: Callable[..., Any]
    ) -> None:
        for what, builtin, mine in self.operands(d, place, view):
            model = getattr(MODEL, view)()
            same(lambda m=model, b=builtin: op(m, b()), lambda m=mine: op(getattr(d, view)(), m()), what)
            if what not in ("list", "generator", "repeated", "string"):  # these know nothing of views, on either side
                same(lambda m=model, b=builtin: op(b(), m), lambda m=mine: op(m(), getattr(d, view)()), f"{what} first")
        assert dict(d.items()) == MODEL

    @both
    @pytest.mark.parametrize("op", COMPARISONS, ids=lambda op: op.__name__)
    def test_comparisons_answer_as_those_of_the_views_of_dict(
        self, d: Any, place: Place, view: str, op: Callable[..., Any]
    ) -> None:
        for what, builtin, mine in self.operands(d, place, view):
            model = getattr(MODEL, view)()
            same(lambda m=model, b=builtin: op(m, b()), lambda m=mine: op(getattr(d, view)(), m()), what)
            same(lambda m=model, b=builtin: op(b(), m), lambda m=mine: op(m(), getattr(d, view)()), f"{what} first")

    @both
    def test_isdisjoint_answers_as_that_of_the_views_of_dict(self, d: Any, place: Place, view: str) -> None:
        for what, builtin, mine in self.operands(d, place, view):
            model = getattr(MODEL, view)()
            same(lambda m=model, b=builtin: m.isdisjoint(b()), lambda m=mine: getattr(d, view)().isdisjoint(m()), what)

    def operands(self, d: Any, place: Place, view: str) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
        theirs = {"a": 1, "b": 3, "new": 4, ("t", 1): "v"}
        content = set(getattr(theirs, view)())
        other = place.dict("other").open()
        other.update(theirs)
        elements = place.set("elements").open()
        elements.update(content)
        alike = set(getattr(MODEL, view)())
        builtin: list[tuple[str, Any]] = [
            *(("set", content), ("frozenset", frozenset(content)), ("view", getattr(theirs, view)())),
            *(("list", list(content)), ("repeated", list(content) * 2), ("empty", set()), ("equal", alike)),
            *(("less", set(list(alike)[:2])), ("more", alike | {"more"}), ("number", 5), ("nothing", None)),
        ]
        operands: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
            ("PersistentSet", lambda: content, lambda: elements),
            ("view of a PersistentDict", getattr(theirs, view), getattr(other, view)),
            ("itself", getattr(MODEL, view), getattr(d, view)),
        ]
        if place.shards == 2:
            operands += [(what, *[lambda v=value: v] * 2) for what, value in builtin]
            operands += [("generator", lambda: iter(list(content)), lambda: iter(list(content)))]
        return operands

    def test_items_with_unhashable_values_answer_what_they_can(self, place: Place) -> None:
        model = {"a": [1], "b": 2}
        d = place.filled_dict(model)
        assert ("a", [1]) in d.items()
        assert ("a", [2]) not in d.items()
        same(lambda: model.items() & {("b", 2)}, lambda: d.items() & {("b", 2)})
        same(lambda: model.items() | {("b", 2)}, lambda: d.items() | {("b", 2)})
        assert place.anonymous() == []
        assert d.items() == d.items()

    @pytest.mark.parametrize("shards", [2], indirect=True)
    @pytest.mark.parametrize("serdes", ["str", "bytes", "pickle", "json", "ordered"])
    def test_set_operations_of_views_work_with_every_serdes(self, place: Place, serdes: str) -> None:
        model: dict[Any, Any] = {b"a": b"1", b"b": b"2"} if serdes == "bytes" else {"a": "1", "b": "2"}
        d = place.dict(serdes=serdes).open()
        d.update(model)
        first = next(iter(model.items()))
        for op in SET_OPERATORS:
            same(lambda op=op: op(model.items(), {first}), lambda op=op: op(d.items(), {first}), op)
            same(lambda op=op: op(model.keys(), {first[0]}), lambda op=op: op(d.keys(), {first[0]}), op)

    def test_views_cannot_be_hashed_and_print_their_dict(self, d: Any) -> None:
        for view in (d.keys(), d.items()):
            with pytest.raises(TypeError, match="unhashable"):
                hash(view)
        assert "PersistentDict" in repr(d.values())
