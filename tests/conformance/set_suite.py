"""What PersistentSet promises: the surface of ``set`` with its results and its errors, and the bulk operations."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Iterator, Set
from typing import Any

import pytest

from rack import PersistentSet, SerializationError
from tests.conformance.container_suite import ContainerSuite, counted
from tests.conformance.model import KEYS, Place, plain, same

MINE: set[Any] = {1, 2, 2.5, "a", "b", ("t", 1), None, "long" * 300, frozenset({1})}
THEIRS: set[Any] = {2, "b", "c", 3, ("t", 1), "long" * 300, "other" * 200}
METHODS = ["union", "intersection", "difference", "symmetric_difference", "isdisjoint", "issubset", "issuperset"]
UPDATES = ["update", "intersection_update", "difference_update", "symmetric_difference_update"]
OPERATORS = [operator.or_, operator.and_, operator.sub, operator.xor]
COMPARISONS = [operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt]
IN_PLACE = [operator.ior, operator.iand, operator.isub, operator.ixor]
Operand = tuple[str, Callable[[], Any], Callable[[], Any]]


class SetSuite(ContainerSuite):
    @pytest.fixture
    def s(self, place: Place) -> PersistentSet[Any]:
        return place.filled_set(MINE)

    @pytest.fixture
    def operands(self, place: Place, s: PersistentSet[Any]) -> list[Operand]:
        """Operands of every kind, as the built-in set is given them and as a PersistentSet is."""
        theirs = dict.fromkeys(THEIRS, 1)
        alike = place.filled_set(THEIRS, "alike")
        other = place.set("other", shards=3, serdes="pickle").open()
        other.update(THEIRS)
        mapping = place.filled_dict(theirs, "mapping")
        subset, superset = place.filled_set({1, "a"}, "subset"), place.filled_set(MINE | {"more"}, "superset")
        builtin: list[Any] = [THEIRS, frozenset(THEIRS), list(THEIRS), tuple(THEIRS), theirs, theirs.keys(), "abc"]
        builtin += [set(), [], {1, "a"}, MINE | {"more"}, set(MINE), list(MINE), range(2000), [2, 2, "b", "b", "new"]]
        wrong = [5, None, [[]], [{}, 1], object()]
        operands: list[Operand] = [
            ("PersistentSet", lambda: THEIRS, lambda: alike),
            ("PersistentSet of another shape", lambda: THEIRS, lambda: other),
            ("itself", lambda: MINE, lambda: s),
            ("generator", lambda: iter(list(THEIRS)), lambda: iter(list(THEIRS))),
            ("keys of a PersistentDict", theirs.keys, mapping.keys),
        ]
        if place.shards == 2:  # the other numbers of shards see the operands that could tell them apart
            operands += [
                ("PersistentDict", lambda: theirs, lambda: mapping),
                ("subset", lambda: {1, "a"}, lambda: subset),
                ("superset", lambda: MINE | {"more"}, lambda: superset),
                *((f"{type(each).__name__} {each!r:.30}", *[lambda e=each: e] * 2) for each in builtin),
                *((f"wrong {each!r}", *[lambda e=each: e] * 2) for each in wrong),
            ]
        return operands

    @pytest.mark.parametrize("method", METHODS)
    def test_methods_answer_as_those_of_set(self, s: Any, operands: list[Operand], method: str) -> None:
        for what, builtin, mine in operands:
            same(lambda builtin=builtin: getattr(MINE, method)(builtin()), lambda m=mine: getattr(s, method)(m()), what)
        assert set(s) == MINE

    def test_methods_take_any_number_of_operands(self, s: Any, place: Place) -> None:
        other = place.filled_set({2, "a", "new"}, "other")
        for method in METHODS[:3]:
            for args in ([], [[2, "a"], {2}], [[1], iter([2, 5]), {"a": 1}], [[1], 5]):
                arguments = [iter(list(a)) if isinstance(a, Iterator) else a for a in args]
                same(
                    lambda method=method, args=args: getattr(MINE, method)(*replayed(args)),
                    lambda method=method, args=arguments: getattr(s, method)(*replayed(args)),
                    (method, args),
                )
            expected = getattr(MINE, method)({2, "a", "new"}, [2, 2, "x"])
            assert plain(getattr(s, method)(other, [2, 2, "x"])) == expected

    @pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
    def test_operators_answer_as_those_of_set(self, s: Any, operands: list[Operand], op: Callable[..., Any]) -> None:
        for what, builtin, mine in operands:
            same(lambda builtin=builtin: op(MINE, builtin()), lambda mine=mine: op(s, mine()), what)
            same(lambda builtin=builtin: op(builtin(), MINE), lambda mine=mine: op(mine(), s), f"reflected {what}")
        assert set(s) == MINE

    @pytest.mark.parametrize("op", COMPARISONS, ids=lambda op: op.__name__)
    def test_comparisons_answer_as_those_of_set(self, s: Any, operands: list[Operand], op: Callable[..., Any]) -> None:
        for what, builtin, mine in operands:
            same(lambda builtin=builtin: op(MINE, builtin()), lambda mine=mine: op(s, mine()), what)
            same(lambda builtin=builtin: op(builtin(), MINE), lambda mine=mine: op(mine(), s), f"reflected {what}")

    @pytest.mark.parametrize("method", UPDATES)
    def test_updates_do_as_those_of_set(self, s: Any, operands: list[Operand], method: str) -> None:
        for what, builtin, mine in operands:
            model = set(MINE)
            operand = model if what == "itself" else builtin()
            same(lambda m=model, o=operand: getattr(m, method)(o), lambda m=mine: getattr(s, method)(m()), what)
            assert what.startswith("wrong") or set(s) == model, what
            s.check()
            s.clear()
            s.update(MINE)

    @pytest.mark.parametrize("op", IN_PLACE, ids=lambda op: op.__name__)
    def test_in_place_operators_do_as_those_of_set(self, s: Any, operands: list[Operand], op: Any) -> None:
        for what, builtin, mine in operands:
            model = set(MINE)
            operand = model if what == "itself" else builtin()
            same(lambda m=model, o=operand: set(op(m, o)), lambda m=mine: set(op(s, m())), what)
            if isinstance(operand, Set):
                model = op(set(MINE), MINE if what == "itself" else operand)  # beside a view of keys it is another set
            assert set(s) == model, what
            s.clear()
            s.update(MINE)

    def test_an_update_that_fails_keeps_the_set(self, s: Any, place: Place) -> None:
        def failing() -> Iterator[Any]:
            yield "a"
            raise ZeroDivisionError

        for method in [*METHODS, *UPDATES]:
            with pytest.raises(ZeroDivisionError):
                getattr(s, method)(failing())
            assert place.anonymous() == []
        assert set(s) >= MINE - {"a"}

    # One element

    def test_one_element_answers_as_in_set(self, s: Any, place: Place) -> None:
        model = set(MINE)
        absent: list[Any] = ["x", b"a", 7, (), 2.25, "long" * 301, frozenset({2})]
        for element in [*MINE, *absent, True, 1.0, 2 + 0j, [], {}, [1]]:
            same(lambda e=element: e in model, lambda e=element: e in s, element)
            same(lambda e=element: model.discard(e), lambda e=element: [s.discard(e), None][1], element)
            same(lambda e=element: model.remove(e), lambda e=element: s.remove(e), element)
            same(lambda e=element: model.add(e), lambda e=element: [s.add(e), None][1], element)
            same(lambda: len(model), lambda: len(s))
            same(lambda e=element: model.remove(e), lambda e=element: s.remove(e), element)
            same(lambda e=element: model.add(e), lambda e=element: [s.add(e), None][1], element)
        assert place.stored(s) == model

    def test_a_set_is_looked_for_as_the_frozenset_that_is_equal(self, s: Any, place: Place) -> None:
        model = set(MINE)
        assert {1} in s
        assert {1, 5} not in s
        assert place.filled_set({1}, "one") in s
        assert s.discard({1})
        model.discard({1})
        same(lambda: model.remove({1}), lambda: s.remove({1}))
        with pytest.raises(TypeError, match="unhashable"):
            s.add({1})
        with place.set("text", serdes="str") as text:
            text.add("a")
            assert {1} not in text
            assert not text.discard({1})

    def test_add_and_discard_tell_whether_they_changed_the_set(self, s: Any) -> None:
        for element in KEYS:
            s.discard(element)
            assert s.add(element) is True
            assert s.add(element) is False
            assert s.discard(element) is True
            assert s.discard(element) is False

    def test_pop_takes_each_element_once_and_then_raises(self, s: Any, place: Place) -> None:
        popped = [s.pop() for _ in MINE]
        assert len(popped) == len(MINE)
        assert set(popped) == MINE
        same(set().pop, s.pop)
        assert place.stored(s) == set()

    # Bulk

    def test_add_many_counts_what_this_call_added(self, s: Any, place: Place) -> None:
        assert s.add_many([]) == 0
        assert s.add_many(["a", "new", "new", 1.0, True, "z" * 600]) == 2
        assert s.add_many(iter(["new", "newer"])) == 1
        assert s.add_many(s) == 0
        for wrong in (5, [[]]):
            with pytest.raises(TypeError):
                s.add_many(wrong)
        assert place.stored(s) == MINE | {"new", "newer", "z" * 600}

    def test_filter_new_yields_what_it_added_in_the_order_of_its_argument(self, s: Any, place: Place) -> None:
        assert list(s.filter_new(["z", "a", "y", "z", 3.0, 3, "x" * 700, "y", 1])) == ["z", "y", 3.0, "x" * 700]
        assert list(s.filter_new(["z", "a", "y"])) == []
        numbers = [number * 7919 % 5_000 for number in range(10_000)]
        fresh = list(s.filter_new(numbers))
        assert fresh == [number for number in dict.fromkeys(numbers) if number not in MINE | {3}]
        assert place.stored(s) == MINE | {"z", "y", "x" * 700} | set(numbers)

    def test_filter_new_does_nothing_until_asked_and_then_a_bounded_chunk(self, s: Any) -> None:
        s.clear()
        taken: list[int] = []
        stream = s.filter_new(counted(taken))
        assert taken == []
        assert len(s) == 0
        assert next(stream) == 0
        assert 0 in s, "an element was yielded before it was committed"
        assert len(taken) < 5_000, "the argument was not read in bounded chunks"
        stream.close()
        with pytest.raises(TypeError, match="unhashable"):
            list(s.filter_new([[]]))

    def test_what_the_serdes_cannot_hold_is_in_no_set(self, place: Place) -> None:
        with place.set("text", serdes="str") as text:
            text.update(["a", "b"])
            assert 1 not in text
            assert not text.discard(1)
            assert list(text.contains_many(["a", 1, "c"])) == [True, False, False]
            assert text.discard_many([1, "b"]) == 1
            assert not text.issuperset(["a", 1])
            assert text.issubset(["a", 1])
            assert text.isdisjoint([1])
            text.intersection_update(["a", 1])
            for add in (
                text.add,
                lambda element: text.update([element]),
                lambda e: text.symmetric_difference_update([e]),
            ):
                with pytest.raises(SerializationError):
                    add(1)
            assert list(text) == ["a"]

    def test_an_open_set_can_be_pickled(self, s: Any) -> None:
        with pickle.loads(pickle.dumps(s)) as again:
            assert again == s
            assert again.add("from the other")
            again.close()
        assert "from the other" in s


def replayed(arguments: list[Any]) -> list[Any]:
    """Return the arguments with fresh iterators in place of iterators, which can be read once."""
    return [iter([2, 5]) if isinstance(argument, Iterator) else argument for argument in arguments]
