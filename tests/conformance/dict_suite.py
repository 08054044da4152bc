"""What PersistentDict promises: the surface of ``dict`` with its results and its errors."""

from __future__ import annotations

import copy
import operator
import pickle
from collections import OrderedDict, UserDict
from types import MappingProxyType
from typing import Any

import pytest

from rack import PersistentDict
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.model import KEYS, VALUES, Place, plain, same

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
