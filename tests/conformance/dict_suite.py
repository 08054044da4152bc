"""What PersistentDict promises: the surface of ``dict`` with its results and its errors, and what is atomic."""

from __future__ import annotations

import copy
import marshal
import operator
import pickle
from collections import OrderedDict, UserDict
from types import MappingProxyType
from typing import Any

import pytest

from rack import DeserializationError, PersistentDict, SerializationError
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.model import KEYS, VALUES, Place, dumped, plain, same

MODEL: dict[Any, Any] = {key: VALUES[at % len(VALUES)] for at, key in enumerate(KEYS)}
ABSENT: list[Any] = ["x", b"b", 7, 2.25, (1,), "long" * 301, frozenset({2})]
UNHASHABLE: list[Any] = [[], {}, {1}, ([],), bytearray(b"a")]


class OnlyKeys:
    """What ``dict.update`` takes though it is no Mapping."""

    def keys(self) -> list[str]:
        return ["a", "only"]

    def __getitem__(self, key: str) -> str:
        return key * 2


class DictSuite(ContainerSuite):
    @pytest.fixture
    def d(self, place: Place) -> PersistentDict[Any, Any]:
        return place.filled_dict(MODEL)

    # One key

    def test_one_key_answers_as_in_dict(self, d: Any, place: Place) -> None:
        model = dict(MODEL)
        for key in [*KEYS, *ABSENT, True, 1.0, 2 + 0j, -1.0, *UNHASHABLE]:
            same(lambda k=key: model[k], lambda k=key: d[k], key)
            same(lambda k=key: k in model, lambda k=key: k in d, key)
            same(lambda k=key: model.get(k), lambda k=key: d.get(k), key)
            same(lambda k=key: model.get(k, "default"), lambda k=key: d.get(k, "default"), key)
            same(lambda k=key: model.setdefault(k), lambda k=key: d.setdefault(k), key)
            same(lambda k=key: model.pop(k), lambda k=key: d.pop(k), key)
            same(lambda k=key: model.pop(k), lambda k=key: d.pop(k), key)
            same(lambda k=key: model.pop(k, "default"), lambda k=key: d.pop(k, "default"), key)
            same(lambda k=key: model.pop(k, None), lambda k=key: d.pop(k, None), key)
            same(lambda k=key: model.setdefault(k, [1]), lambda k=key: d.setdefault(k, [1]), key)
            same(lambda k=key: model.setdefault(k, [2]), lambda k=key: d.setdefault(k, [2]), key)
            same(lambda k=key: operator.delitem(model, k), lambda k=key: operator.delitem(d, k), key)
            same(lambda k=key: operator.delitem(model, k), lambda k=key: operator.delitem(d, k), key)
            same(lambda k=key: operator.setitem(model, k, "n"), lambda k=key: operator.setitem(d, k, "n"), key)
            same(lambda k=key: operator.setitem(model, k, 2), lambda k=key: operator.setitem(d, k, 2), key)
            same(lambda: len(model), lambda: len(d))
        assert place.stored(d) == model

    def test_values_of_every_kind_come_back(self, d: Any, place: Place) -> None:
        for value in VALUES:
            d["value"] = value
            assert d["value"] == value
            assert type(d["value"]) is type(value)
        assert place.stored(d)["value"] == VALUES[-1]

    def test_popitem_takes_each_pair_once_and_then_raises(self, d: Any, place: Place) -> None:
        popped = [d.popitem() for _ in MODEL]
        assert dict(popped) == MODEL
        same({}.popitem, d.popitem)
        assert place.stored(d) == {}

    def test_a_value_read_is_a_copy(self, d: Any) -> None:
        d["list"] = [1]
        d["list"].append(2)
        assert d["list"] == [1]

    # Whole dicts

    @pytest.mark.parametrize("method", ["update", "__ior__"])
    def test_update_takes_what_dict_takes_and_refuses_what_it_refuses(self, d: Any, place: Place, method: str) -> None:
        pairs = [("a", 1), ("new", [2]), (1.0, 3), ("a", 4)]
        other = place.filled_dict({"a": "pd", "other" * 200: 2}, "other")
        pickled = place.dict("pickled", shards=3, serdes="pickle").open()
        pickled.update(other)
        right: list[Any] = [
            {},
            [],
            dict(pairs),
            OrderedDict(pairs),
            UserDict(pairs),
            pairs,
            tuple(pairs),
            dict(pairs).items(),
        ]
        right += [["xy", "zw"], OnlyKeys(), [["l", 1]], MappingProxyType(dict(pairs))]
        wrong: list[Any] = [5, None, "abc", [1], [(1,)], [(1, 2, 3)], [([], 1)], {"k"}, object()]
        for argument in [*right, *wrong]:
            model = plain(d)
            same(lambda m=model, a=argument: m.update(a), lambda a=argument: getattr(d, method)(a) and None, argument)
            assert dict(d.items()) == model, argument
        for argument in (other, pickled, d):
            d["a"] = 0
            model = {**dict(d.items()), **dict(argument.items())}
            getattr(d, method)(argument)
            assert dict(d.items()) == model
        getattr(d, method)(iter([("iter", 1)]))
        assert d["iter"] == 1

    def test_update_takes_keywords(self, d: Any) -> None:
        d.update(self=1, other=2)
        d.update({"a": 5, "k": 6}, a=7)
        assert [d[key] for key in ("self", "other", "a", "k")] == [1, 2, 7, 6]
        with pytest.raises(TypeError):
            d.update({}, {})

    def test_merging_answers_as_that_of_dict(self, d: Any, place: Place) -> None:
        content = {"a": "theirs", "new": 1, "o" * 600: 2}
        other = place.filled_dict(content, "other")
        for theirs in (content, OrderedDict(content), UserDict(content), MappingProxyType(content), other):
            assert plain(d | theirs) == MODEL | content
            merged = theirs | d
            assert plain(merged) == content | MODEL
        for wrong in (5, None, [("a", 1)], {"a"}, "ab"):
            for merge in (lambda w=wrong: d | w, lambda w=wrong: w | d):
                with pytest.raises(TypeError):
                    merge()
        assert dict(d.items()) == MODEL
        before = d
        d |= content
        d |= [("pair", 1)]
        assert d is before
        assert place.stored(d) == MODEL | content | {"pair": 1}

    def test_comparisons_answer_as_those_of_dict(self, d: Any, place: Place) -> None:
        others: list[Any] = [
            MODEL,
            dict(MODEL),
            MODEL | {"more": 1},
            MODEL | {"a": "changed"},
            {},
            5,
            None,
            [],
            set(KEYS),
        ]
        others += [OrderedDict(MODEL), {key: value for key, value in MODEL.items() if key != "a"} | {"z": 1}]
        for other in others:
            for op in (operator.eq, operator.ne, operator.lt, operator.ge):
                same(lambda op=op, o=other: op(MODEL, o), lambda op=op, o=other: op(d, o), other)
                same(lambda op=op, o=other: op(o, MODEL), lambda op=op, o=other: op(o, d), other)
        equal, unequal = place.filled_dict(MODEL, "equal"), place.filled_dict(MODEL | {"a": "!"}, "unequal")
        assert d == d
        assert d == equal
        assert (d != equal) is False
        assert d != unequal
        assert d != place.filled_set(set(KEYS), "set")

    def test_fromkeys_makes_a_dict(self, place: Place) -> None:
        options = {"shards": place.shards, "engine": place.engine}
        for number, args in enumerate([(["a", "b", "a", 1, 1.0],), (["a", "b"], [1]), ("",), ({"k": 1}, {})]):
            made = PersistentDict.fromkeys(*args, name=place.directory / f"made{number}", **options)
            assert plain(made) == dict.fromkeys(*args)
        assert plain(PersistentDict.fromkeys(iter("abc"), 0, place.directory / "made", **options)) == dict.fromkeys(
            "abc", 0
        )
        for wrong in (5, [[]]):
            with pytest.raises(TypeError):
                PersistentDict.fromkeys(wrong, name=place.directory / "wrong", **options)
        assert not list(place.directory.glob("wrong*-0*"))
        with PersistentDict.fromkeys("ab", **options) as anonymous:
            assert dict(anonymous.items()) == {"a": None, "b": None}
            assert anonymous.check() == 2

    def test_copies_of_every_kind_are_copies(self, d: Any) -> None:
        for copied in (d.copy(), copy.copy(d), copy.deepcopy(d)):
            copied["a"] = "changed"
            assert d["a"] == MODEL["a"]
            assert plain(copied) == MODEL | {"a": "changed"}

    def test_an_open_dict_can_be_pickled(self, d: Any) -> None:
        with pickle.loads(pickle.dumps(d)) as again:
            assert again == d
            again["other"] = 1
            again.close()
        assert d["other"] == 1

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

    def test_a_batch_answers_as_a_dict_and_is_written_when_it_ends(self, d: Any, place: Place) -> None:
        model, witness = dict(MODEL), place.dict().open()
        with d.batch():
            for at, key in enumerate([*KEYS[::2], *ABSENT]):
                d[key] = model[key] = at
                assert d[key] == at
            assert "x" not in witness
            assert all(key in d for key in ABSENT)
            for key in ("x", "a", 7, "long" * 301):
                same(lambda k=key: model.pop(k), lambda k=key: d.pop(k), key)
                assert key not in d
            d[7] = model[7] = 1
            assert (d.incr(7), d.add(7, 0), d.setdefault("x", "s"), d.compare_and_set("x", "s", "t")) == (
                2,
                False,
                "s",
                True,
            )
            model |= {7: 2, "x": "t"}
            del d["b"], model["b"]
            d.update({"u": 1, "w": 2})
            model.update({"u": 1, "w": 2})
            d["u"] = model["u"] = 3
            assert len(d) == len(model)
            assert dict(d.items()) == model
            d["last"] = model["last"] = 1
            assert d.get_many(["last", "u"]) == {"last": 1, "u": 3}
            d["very last"] = model["very last"] = 1
        witness.close()
        assert place.stored(d) == model

    def test_clearing_in_a_batch_clears_what_it_holds(self, d: Any) -> None:
        with d.batch():
            d["held"] = 1
            d.clear()
            d["after"] = 2
        assert dict(d.items()) == {"after": 2}

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
            lambda: operator.setitem(d, value, 1),
        ]
        for call in calls:
            with pytest.raises(SerializationError, match=r"object.*pickle"):
                call()
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
