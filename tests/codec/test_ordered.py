"""The codecs "ordered", "str" and "bytes": the order of the bytes is the order of the keys."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rack import PersistentDict, SerializationError
from rack.codec import ordered
from rack.codec.keys import resolve_codec
from rack.codec.serdes import PRESETS
from rack.container.scan import span_of
from rack.shard import ENGINES

ORDERED, STR, BYTES = (resolve_codec(name, PRESETS[name]) for name in ("ordered", "str", "bytes"))

near = st.sampled_from([0, 1, -1, 127, 128, 255, 256, 2**53, 2**63, 2**64, 10**30, 10**308, 10**400, 2**5000])
numbers = st.one_of(
    *(st.integers(), st.floats(allow_nan=False), st.booleans(), st.integers(-300, 300)),
    *(near, near.map(lambda number: -number), st.builds(lambda number, step: number + step, near, st.integers(-2, 2))),
    st.sampled_from([5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 0.5, -0.0, 2.0**53]),
)
text = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=4), st.sampled_from(["", "\0", "a\0", "a", "\ud800"])
)
binary = st.one_of(st.binary(max_size=4), st.sampled_from([b"", b"\0", b"\0\xff", b"a\0", b"\xff", b"\0\0"]))
keys = st.recursive(
    st.one_of(st.none(), numbers, text, binary),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def place_of(key: Any) -> tuple[Any, ...]:
    """Return where a key stands in the documented order, as something that Python compares."""
    if key is None:
        return (0,)
    if isinstance(key, float) and math.isinf(key):
        return (1, -1 if key < 0 else 1, 0)
    if isinstance(key, int | float):
        return (1, 0, Fraction(key))
    if isinstance(key, bytes):
        return (2, key)
    if isinstance(key, str):
        return (3, key)
    return (4, tuple(map(place_of, key)))


@settings(deadline=None, max_examples=500)
@given(keys, keys)
def test_the_order_of_the_bytes_is_the_order_of_the_keys(one: Any, other: Any) -> None:
    one_bytes, other_bytes = ORDERED.dumps(one), ORDERED.dumps(other)
    assert (one_bytes < other_bytes) == (place_of(one) < place_of(other))
    assert (one_bytes == other_bytes) == (one == other)


@settings(deadline=None, max_examples=500)
@given(numbers, numbers)
def test_numbers_of_any_type_and_size_are_in_order(one: Any, other: Any) -> None:
    assert (ORDERED.dumps(one) < ORDERED.dumps(other)) == (one < other)
    assert (ORDERED.dumps((one, "x")) < ORDERED.dumps((other, "x"))) == (one < other)


@settings(deadline=None, max_examples=300)
@given(keys)
def test_an_ordered_key_comes_back(key: Any) -> None:
    back = ORDERED.loads(ORDERED.dumps(key))
    assert back == key
    assert ORDERED.dumps(back) == ORDERED.dumps(key)


@settings(deadline=None)
@given(keys, st.lists(keys, max_size=2).map(tuple))
def test_a_tuple_sorts_before_the_tuples_it_begins(first: Any, rest: tuple[Any, ...]) -> None:
    beginning, end = ORDERED.dumps((first,)), ORDERED.dumps((first, *rest, None))
    assert beginning < end
    assert end.startswith(beginning[:-1]), "a prefix of a tuple is not a prefix of its bytes"


def begins(key: Any, prefix: Any) -> bool:
    if isinstance(prefix, tuple):
        return isinstance(key, tuple) and key[: len(prefix)] == prefix
    return isinstance(key, type(prefix)) and bool(key.startswith(prefix))


tuples = st.lists(keys, max_size=3).map(tuple)


@settings(deadline=None, max_examples=500)
@given(st.one_of(text, binary, tuples), st.one_of(keys, tuples), tuples)
def test_a_prefix_is_the_range_of_all_that_begin_with_it(prefix: Any, other: Any, more: tuple[Any, ...]) -> None:
    neighbours = [other, prefix, (prefix, *more), prefix[:-1]]
    if isinstance(prefix, tuple):
        neighbours.append(prefix + more)
        if prefix and isinstance(prefix[-1], str | bytes):  # the last element goes on, with what has to be escaped
            end = "\0" if isinstance(prefix[-1], str) else b"\0"
            neighbours += [(*prefix[:-1], prefix[-1] + end), (*prefix[:-1], prefix[-1] + end, *more)]
    else:
        neighbours += [prefix + prefix[::-1], (*more, prefix)]
    for key in neighbours:
        span = span_of(ORDERED, None, None, prefix, False, None)
        assert span.stop is not None
        assert (span.start <= ORDERED.dumps(key) < span.stop) == begins(key, prefix), key


@settings(deadline=None)
@given(st.one_of(binary, st.binary(max_size=3).map(lambda data: b"\xff" * len(data))), binary)
def test_a_prefix_of_bytes_is_the_range_of_all_that_begin_with_it(prefix: bytes, more: bytes) -> None:
    span = span_of(BYTES, None, None, prefix, False, None)
    for key in (more, prefix, prefix + more, prefix[:-1] + more, b"\xff" * 9):
        assert (span.start <= key and (span.stop is None or key < span.stop)) == key.startswith(prefix), key


@settings(deadline=None)
@given(text, text)
def test_str_and_bytes_codecs_keep_the_order(one: str, other: str) -> None:
    assert (STR.dumps(one) < STR.dumps(other)) == (one < other)
    assert STR.loads(STR.dumps(one)) == one
    one_bytes, other_bytes = STR.dumps(one), STR.dumps(other)
    assert (BYTES.dumps(one_bytes) < BYTES.dumps(other_bytes)) == (one_bytes < other_bytes)
    assert BYTES.dumps(one_bytes) == BYTES.loads(one_bytes) == one_bytes


@pytest.mark.parametrize("key", [Decimal(1), Fraction(1), 1 + 0j, True, (Decimal(1),), ((Fraction(1, 2),),)], ids=repr)
def test_ordered_takes_equal_numbers_of_other_types(key: Any) -> None:
    assert ORDERED.loads(ORDERED.dumps(key)) == key
    if not isinstance(key, tuple):
        assert ORDERED.dumps(key) == ORDERED.dumps(1)


@pytest.mark.parametrize("key", [math.nan, (math.nan,), frozenset(), 1j, Decimal("0.1"), object, ("a", 1j)], ids=repr)
def test_what_has_no_place_in_the_order_is_refused(key: Any) -> None:
    with pytest.raises(SerializationError, match="ordered"):
        ORDERED.dumps(key)


@pytest.mark.parametrize("codec", [STR, BYTES], ids=["str", "bytes"])
@pytest.mark.parametrize("key", [1, None, ("a",), 1.5, frozenset()], ids=repr)
def test_str_and_bytes_refuse_other_types(codec: Any, key: Any) -> None:
    with pytest.raises(SerializationError, match="key of type"):
        codec.dumps(key)
    with pytest.raises(SerializationError):
        codec.dumps(b"a" if codec is STR else "a")


# Stores on disk depend on these.
GOLDEN: list[tuple[Any, str]] = [
    (None, "01"),
    (0, "04"),
    (1, "0502044d80"),
    (-1, "03fdfbb27f"),
    (0.5, "0502044c80"),
    (math.inf, "06"),
    (b"a\0b", "07610062"),
    ("a\0b", "08610062"),
    (("a\0", None, ()), "09086100ff0001090000"),
]


@pytest.mark.parametrize(("key", "expected"), GOLDEN, ids=lambda value: repr(value))
def test_the_bytes_of_ordered_keys_do_not_change(key: Any, expected: str) -> None:
    assert ordered.dumps(key).hex() == expected
    assert ordered.loads(bytes.fromhex(expected)) == key


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shards", [1, 7])
def test_a_store_with_ordered_keys_iterates_in_their_order(tmp_path: Path, engine: str, shards: int) -> None:
    expected: list[Any] = [
        None,
        -(10**400),
        -1.5,
        0,
        0.25,
        3,
        10**400,
        b"a",
        b"b",
        "",
        "a" * 700,
        "b",
        (),
        (1,),
        (1, 2),
        (2,),
    ]
    with PersistentDict(tmp_path / "d", key_serdes="ordered", engine=engine, shards=shards) as d:
        d.update((key, number) for number, key in reversed(list(enumerate(expected))))
        assert list(d) == expected
        assert list(d.values()) == list(range(len(expected)))
        assert d.check() == len(expected)
