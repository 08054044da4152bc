"""Keys that compare equal are one key: equal bytes exactly for equal keys, of any type and at any depth."""

from __future__ import annotations

import enum
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rack
from rack import PersistentDict, PersistentSet, SerializationError
from rack.codec.keys import CANONICAL, resolve_codec
from rack.codec.serdes import PRESETS
from rack.shard import ENGINES
from tests.support.processes import end_sound as end_sound

PICKLE = resolve_codec("pickle", PRESETS["pickle"])
every_engine = pytest.mark.parametrize("engine", ENGINES)

# Few enough that equal ones of different types meet often.
numbers = st.sampled_from(
    [
        *(0, 0.0, -0.0, False, Decimal(0), Decimal("-0"), Fraction(0), 0j, complex(-0.0, -0.0)),
        *(1, 1.0, True, Decimal(1), Decimal("1.00"), Fraction(1), 1 + 0j, complex(1, -0.0)),
        *(0.5, Decimal("0.5"), Fraction(1, 2), 0.5 + 0j, 0.1, Decimal("0.1"), Fraction(1, 10), Decimal.from_float(0.1)),
        *(2**53, 2.0**53, 2**53 + 1, Decimal(2**53), Decimal(2**53 + 1), Fraction(2**53), 2**64, 2.0**64, -1, -1.0),
        *(1j, complex(-0.0, 1), complex(0, 1.0), 1e308, int(1e308), Fraction(1e308), 5e-324, Fraction(5e-324)),
        *(math.inf, -math.inf, Decimal("inf"), Decimal("-inf"), complex(math.inf, 0)),
    ]
)
marshallable = st.one_of(
    *(st.integers(), st.floats(allow_nan=False), st.booleans(), st.complex_numbers(allow_nan=False), st.none()),
    *(st.text(), st.binary(), st.sampled_from(["a", b"a", "", b"", "1", "\ud800", ()])),
)
leaves = st.one_of(numbers, marshallable, st.decimals(allow_nan=False, places=2), st.fractions())


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf,
        lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
        max_leaves=5,
    )


def twin(key: Any) -> Any:
    """Return a key that is equal and, wherever there is one, of another type and another object."""
    if isinstance(key, tuple):
        return tuple(map(twin, key))
    if isinstance(key, frozenset):
        return frozenset(map(twin, reversed(list(key))))
    if isinstance(key, str):
        return "".join(list(key))
    if isinstance(key, bytes):
        return bytes(bytearray(key))
    if isinstance(key, bool):
        return Fraction(int(key))
    if isinstance(key, int):
        return Decimal(key)
    if isinstance(key, float) and math.isfinite(key):
        return Fraction(key)
    if isinstance(key, Fraction) and Fraction(float(key)) == key:
        return complex(float(key))
    return key


@settings(deadline=None, max_examples=300)
@given(nested(numbers), nested(numbers))
def test_keys_have_equal_bytes_exactly_if_they_are_equal(one: Any, other: Any) -> None:
    assert (PICKLE.dumps(one) == PICKLE.dumps(other)) == (one == other)


@settings(deadline=None, max_examples=300)
@given(nested(leaves), nested(leaves))
def test_equal_keys_of_other_types_have_equal_bytes(one: Any, other: Any) -> None:
    assert twin(one) == one
    assert PICKLE.dumps(twin(one)) == PICKLE.dumps(one)
    assert (PICKLE.dumps(one) == PICKLE.dumps(other)) == (one == other)


@settings(deadline=None, max_examples=300)
@given(nested(leaves))
def test_a_key_comes_back_equal_and_canonical(key: Any) -> None:
    data = PICKLE.dumps(key)
    assert PICKLE.loads(data) == key
    assert hash(PICKLE.loads(data)) == hash(key)
    assert PICKLE.dumps(PICKLE.loads(data)) == data


@settings(deadline=None, max_examples=200)
@given(nested(marshallable))
def test_the_default_codec_holds_all_that_marshal_holds(key: Any) -> None:
    data = CANONICAL.dumps(key)
    assert CANONICAL.loads(data) == key
    assert data == PICKLE.dumps(key), "another fallback changed the bytes of a key that marshal holds"
    assert CANONICAL.dumps(twin(twin(key))) == data


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Text(enum.StrEnum):
    A = "a"


class Word(str):
    __slots__ = ()


class CaseBlind(str):
    """A str that compares otherwise than str does is another key."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaseBlind) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


@dataclass(frozen=True)
class Record:
    name: str
    size: int


Point = namedtuple("Point", "x y")
Whole = type("Whole", (int,), {})
Half = type("Half", (float,), {})
Raw = type("Raw", (bytes,), {})
Few = type("Few", (frozenset,), {})


@pytest.mark.parametrize(
    ("key", "base"),
    [
        *((Word("a"), "a"), (Text.A, "a"), (Raw(b"a"), b"a"), (Whole(7), 7), (Number.ONE, 1), (Half(0.5), 0.5)),
        *((Point(1, "a"), (1, "a")), (Few([1]), frozenset([1])), ((Word("a"), Number.ONE), ("a", 1)), (Half(2), 2)),
        *((-0.0, 0), ((-0.0,), (0,)), (complex(0.5, -0.0), 0.5), (Decimal("1e3"), 1000), (memoryview(b"a"), b"a")),
        *((complex(-0.0, 1), 1j), ((1, complex(-0.0, 1)), (1, 1j)), (complex(-0.0, math.nan), complex(0, -math.nan))),
    ],
)
def test_a_subclass_that_compares_as_its_base_is_the_same_key(key: Any, base: Any) -> None:
    assert key == base or base != base
    assert CANONICAL.dumps(key) == CANONICAL.dumps(base)
    assert type(CANONICAL.loads(CANONICAL.dumps(key))) is type(CANONICAL.loads(CANONICAL.dumps(base)))


def test_a_subclass_that_compares_otherwise_is_refused() -> None:
    with pytest.raises(SerializationError, match=r"CaseBlind.*== is its own.*register_key"):
        CANONICAL.dumps(CaseBlind("a"))


@pytest.mark.parametrize("key", [Colour.RED, Record("a", 1), Fraction(1, 3), Decimal("0.1"), (1, (Colour.RED, "a"))])
def test_keys_beyond_marshal_are_packed(key: Any) -> None:
    data = CANONICAL.dumps(key)
    assert data.startswith(b"\0")
    assert CANONICAL.loads(data) == key


@pytest.mark.parametrize("codec", ["marshal", "pickle", "json", "str", "bytes", "ordered"])
@pytest.mark.parametrize("key", [[], {}, set(), ([],), (1, {}), bytearray(b"a")], ids=repr)
def test_an_unhashable_key_is_the_type_error_of_dict(codec: str, key: Any) -> None:
    with pytest.raises(TypeError, match="unhashable") as caught:
        resolve_codec(codec, PRESETS[codec]).dumps(key)
    assert type(caught.value) is TypeError


def test_every_nan_is_one_key() -> None:
    other = float("inf") - float("inf")
    assert CANONICAL.dumps(math.nan) == CANONICAL.dumps(other) == CANONICAL.dumps(Decimal("nan"))
    assert CANONICAL.dumps((math.nan,)) == CANONICAL.dumps((-math.nan,))
    assert CANONICAL.dumps(complex(math.nan, 1)) == CANONICAL.dumps(complex(-math.nan, 1))
    assert math.isnan(CANONICAL.loads(CANONICAL.dumps(math.nan)))


def test_sharing_and_interning_leave_no_mark() -> None:
    literal, joined = "helloworld", "".join(["hello", "world"])
    assert literal is not joined
    assert CANONICAL.dumps(literal) == CANONICAL.dumps(joined)
    pairs: list[tuple[Any, Any]] = [
        ((literal, literal), (literal, joined)),
        ((literal, (literal,)), (joined, (literal,))),
        ((10**20,) * 2, (10**20, int("1" + "0" * 20))),
        ((0.5,) * 2, (0.5, float("0.5"))),
    ]
    for one, other in pairs:
        assert one == other
        assert CANONICAL.dumps(one) == CANONICAL.dumps(other)


@pytest.mark.parametrize("build", [lambda items: frozenset(items), lambda items: (frozenset(items), 1)])
def test_the_order_in_which_a_frozenset_was_made_leaves_no_mark(build: Callable[[list[Any]], Any]) -> None:
    for codec in (CANONICAL, PICKLE):
        extra: list[Any] = [] if codec is CANONICAL else [Fraction(1, 3), Fraction(2, 3)]
        items = [0, 8, 16, "a", "b", (1, 2), None, 2.5, b"x", *extra]
        assert codec.dumps(build(items)) == codec.dumps(build(items[::-1]))


# The rows of the table of DESIGN.rst, in a store


@every_engine
def test_equal_strings_made_differently_are_one_key_of_a_store(tmp_path: Path, engine: str) -> None:
    joined = "".join(["hello", "world"])
    with PersistentDict(tmp_path / "d", engine=engine, shards=7) as d:
        d["helloworld"] = 1
        assert d[joined] == 1
        d[joined] = 2
        assert dict(d) == {"helloworld": 2}
        assert d.check() == 1


@every_engine
def test_equal_numbers_are_one_key_of_a_store(tmp_path: Path, engine: str) -> None:
    same: list[Any] = [1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j]
    with (
        PersistentDict(tmp_path / "d", engine=engine, shards=7) as d,
        PersistentSet(tmp_path / "s", engine=engine, shards=7) as s,
    ):
        for number in same:
            d[number] = type(number).__name__
            d[("nested", (number,))] = type(number).__name__
            assert s.add(frozenset([number])) == (number is same[0])
        assert all(d[number] == d["nested", (number,)] == "complex" for number in same)
        assert all(frozenset([number]) in s for number in same)
        assert (d.check(), s.check()) == (2, 1)


def test_a_type_without_a_name_cannot_be_registered() -> None:
    class Local:
        pass

    with pytest.raises(TypeError, match=r"Local, \.\.\.\): a type which cannot be found by its name"):
        rack.register_key(Local, str, Local)
