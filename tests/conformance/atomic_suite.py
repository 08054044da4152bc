"""What PersistentDict promises beyond ``dict``: what is atomic on a key, bulk operations, errors by name."""

from __future__ import annotations

import marshal
import operator
from typing import Any

import pytest

from rack import DeserializationError, PersistentDict, SerializationError
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.dict_suite import ABSENT, MODEL, UNHASHABLE
from tests.conformance.model import KEYS, Place, dumped


class AtomicSuite(ContainerSuite):
    @pytest.fixture
    def d(self, place: Place) -> PersistentDict[Any, Any]:
        return place.filled_dict(MODEL)

    # Atomic on a key

    def test_add_sets_only_what_is_not_there(self, d: Any, place: Place) -> None:
        for key in KEYS:
            assert d.add(key, "x") is False
        for key in ABSENT:
            assert d.add(key, "x") is True
            assert d.add(key, "y") is False
        for key in UNHASHABLE:
            with pytest.raises(TypeError, match="unhashable"):
                d.add(key, 1)
        assert place.stored(d) == MODEL | dict.fromkeys(ABSENT, "x")

    def test_incr_adds_to_the_value(self, d: Any, place: Place) -> None:
        d.clear()
        for key in ("n", "long" * 300):
            assert [d.incr(key), d.incr(key), d.incr(key, 5), d.incr(key, -0.5)] == [1, 2, 7, 6.5]
            assert d.incr(key, delta=2, default=100) == 8.5
        assert d.incr("from", 1, 100) == 101
        assert d.incr("text", "b", "a") == "ab"
        assert d.incr("list", [1], []) == [1]
        with pytest.raises(TypeError):
            d.incr("text", 1)
        with pytest.raises(TypeError):
            d.incr([], 1)
        assert place.stored(d) == {"n": 8.5, "long" * 300: 8.5, "from": 101, "text": "ab", "list": [1]}

    def test_compare_and_set_sets_only_what_is_equal(self, d: Any, place: Place) -> None:
        d["k"] = [1, 2]
        assert not d.compare_and_set("k", [1], "new")
        assert not d.compare_and_set("absent", None, "new")
        assert d.compare_and_set("k", [1.0, 2], "new")
        assert d.compare_and_set("k", "new", None)
        assert d.compare_and_set("k", None, "newer")
        assert "absent" not in d
        assert place.stored(d)["k"] == "newer"

    def test_transform_sets_what_the_function_gives(self, d: Any, place: Place) -> None:
        d["k"] = [1]
        assert d.transform("k", lambda value: [*value, 2]) == [1, 2]
        assert d.transform("absent", lambda value: (value, 1)) == (None, 1)
        assert d.transform("other", lambda value: value + 1, 5) == 6
        with pytest.raises(ZeroDivisionError):
            d.transform("k", lambda _: 1 // 0)
        assert d.transform("k", lambda value: d.incr("inner") and [*value, 3]) == [1, 2, 3]
        stored = place.stored(d)
        assert [stored[key] for key in ("k", "absent", "other", "inner")] == [[1, 2, 3], (None, 1), 6, 1]

    # Bulk

    def test_get_many_gives_those_that_are_there(self, d: Any) -> None:
        assert d.get_many([]) == {}
        assert d.get_many([*KEYS, *ABSENT]) == MODEL
        assert d.get_many(iter(["a", "x", True])) == {"a": MODEL["a"], True: MODEL[1]}
        for key in UNHASHABLE:
            with pytest.raises(TypeError, match="unhashable"):
                d.get_many([key])

    # Errors

    def test_what_cannot_be_stored_is_named_and_changes_nothing(self, d: Any, place: Place) -> None:
        value = object()
        calls = [
            lambda: operator.setitem(d, "a", value),
            lambda: d.setdefault("absent", value),
            lambda: d.add("absent", value),
            lambda: d.update({"a": value}),
            lambda: d.transform("a", lambda _: value),
            lambda: d.compare_and_set("a", MODEL["a"], value),
        ]
        for call in calls:
            with pytest.raises(SerializationError, match=r"object.*pickle"):
                call()
        with pytest.raises(SerializationError, match=r"object.*nothing but itself.*register_key"):
            d[value] = 1
        assert value not in d
        assert d.get(value, "default") == "default"
        assert d.pop(value, "default") == "default"
        for missing in (lambda: d[value], lambda: d.pop(value), lambda: operator.delitem(d, value)):
            with pytest.raises(KeyError):
                missing()
        assert place.stored(d) == MODEL

    def test_bytes_that_cannot_be_loaded_are_an_error_wherever_they_are_read(self, place: Place) -> None:
        d = place.filled_dict({"good": 1})
        d.close()
        place.raw.write_store(place.directory / "store", place.shards, [(dumped("bad"), b"\xff no marshal")])
        d.open()
        reads = [
            lambda: d["bad"],
            lambda: d.get("bad"),
            lambda: d.setdefault("bad", 1),
            lambda: d.get_many(["bad"]),
            lambda: dict(d.items()),
            lambda: list(d.values()),
            lambda: d.incr("bad"),
            lambda: d.transform("bad", str),
            lambda: d == {"good": 1, "bad": 2},
            d.check,
        ]
        for read in reads:
            with pytest.raises(DeserializationError, match="marshal"):
                read()
        assert sorted(d) == ["bad", "good"]
        assert d["good"] == 1
        del d["bad"]
        assert marshal.loads(marshal.dumps(dict(d.items()))) == {"good": 1}
