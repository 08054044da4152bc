"""Stores of one serializer of the user's own are read as bytes; and what a copy's keys are made with."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.algebra import operand

loaded = 0


class Odd:
    """An object that only the serializer of the user's holds."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


def _loads(data: bytes) -> Any:
    global loaded
    loaded += 1
    return pickle.loads(data)


def _dumps(value: Any) -> bytes:
    return pickle.dumps(value, 5)


PAIR = (_loads, _dumps)
OTHER = (pickle.loads, _dumps)


def test_sets_of_one_serializer_are_joined_and_copied_as_bytes(tmp_path: Path) -> None:
    with (
        PersistentSet[Any](tmp_path / "a", serdes=PAIR, shards=2) as a,
        PersistentSet[Any](tmp_path / "b", serdes=PAIR, shards=2) as b,
        PersistentSet[Any](tmp_path / "c", serdes=OTHER, shards=2) as c,
        PersistentSet[Any](tmp_path / "d", serdes=PAIR, shards=3) as d,
    ):
        for store in (a, b, c, d):
            store.update([*range(50), *map(Odd, range(20))])
        b.add(Odd(99))
        assert operand.alike(a, b)
        assert not operand.alike(a, c)
        assert not operand.alike(a, d)
        for make in (a.__and__, a.__or__, a.__xor__, a.__sub__):
            with make(b) as made:
                assert len(made) in (70, 71, 1, 0)
        before = loaded
        a.update(b)
        assert a.issuperset(b)
        assert a.issubset(b)
        assert loaded == before
        with a & c as made:  # through objects
            assert len(made) == 70


@pytest.mark.parametrize("options", [{"serdes": PAIR}, {"serdes": PAIR, "key_serdes": PAIR}])
def test_dicts_of_one_serializer_are_copied_as_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    with (
        PersistentDict[Any, Any](tmp_path / "a", shards=2, **options) as a,
        PersistentDict[Any, Any](tmp_path / "b", shards=3, **options) as b,
    ):
        a.update((number, Odd(number)) for number in range(30))
        with a.copy() as copy, a.copy(shards=3) as other:  # each tries the serializer
            before = loaded
            b.update(a)
            assert loaded == before
            assert dict(copy) == dict(other) == dict(b) == {number: Odd(number) for number in range(30)}


def test_no_element_of_a_copy_is_loaded(tmp_path: Path) -> None:
    with PersistentSet[Any](tmp_path / "a", serdes=PAIR, shards=2) as a:
        a.update(map(Odd, range(1000)))
        for options in ({}, {"shards": 5}, {"engine": "sqlite3"}):
            before = loaded
            with a.copy(**options) as copy:
                assert loaded - before < 50  # trials of the serializer
                assert len(copy) == 1000


@pytest.mark.parametrize("kind", [PersistentDict, PersistentSet])
def test_a_copy_has_the_same_keys_whether_their_serdes_was_told_or_adopted(tmp_path: Path, kind: Any) -> None:
    for serdes, key_serdes in itertools.product((None, "str", "ordered"), (None, "str", "ordered", "marshal")):
        path = tmp_path / f"{serdes} {key_serdes}"
        options = {"serdes": serdes, "key_serdes": key_serdes}
        kind(path, shards=1, **options).open().close()
        made = []
        for given in (options, {"serdes": serdes}, {"key_serdes": key_serdes}, {}):
            with kind(path, **given) as store:
                found = []
                for copied in ({}, {"serdes": "pickle"}, {"serdes": "str"}, {"serdes": "json", "key_serdes": "str"}):
                    with store.copy(**copied) as copy:
                        found.append((copy._manifest.serdes, copy._manifest.key_serdes))
                made.append(found)
        assert made[0] == made[1] == made[2] == made[3], (options, made)
