"""A value comes back equal and of the same type, whatever it is made of, or is refused with the part to blame."""

from __future__ import annotations

import array
import collections
import ctypes
import datetime
import decimal
import enum
import math
import mmap
import pathlib
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rack import PersistentDict, SerializationError
from rack.codec.serdes import PRESETS
from tests.support.processes import end_sound as end_sound

# Types that a serializer may take for others


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Access(enum.Flag):
    READ = 1


class Bits(enum.IntFlag):
    READ = 1


@dataclass(frozen=True)
class Record:
    name: str


Point = collections.namedtuple("Point", "x y")
Whole = type("Whole", (int,), {"__module__": __name__})
Real = type("Real", (float,), {"__module__": __name__})
Complex = type("Complex", (complex,), {"__module__": __name__})
Text = type("Text", (str,), {"__module__": __name__})
Raw = type("Raw", (bytes,), {"__module__": __name__})
Many = type("Many", (list,), {"__module__": __name__})
Few = type("Few", (tuple,), {"__module__": __name__})
Table = type("Table", (dict,), {"__module__": __name__})
Bag = type("Bag", (set,), {"__module__": __name__})
Frozen = type("Frozen", (frozenset,), {"__module__": __name__})


def module_function() -> None: ...


class Structure(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))


BUFFERS: list[Any] = [
    array.array("d", [1.5, 2.5]),
    array.array("B", b"abc"),
    bytearray(b"abc"),
    bytearray(),
    memoryview(b"abc"),
    memoryview(bytearray(b"abcdef"))[::2],
    Raw(b"abc"),
    ctypes.c_int64(5),
    (ctypes.c_int * 3)(1, 2, 3),
    Structure(1, 2.0),
    ctypes.create_string_buffer(b"abc"),
    mmap.mmap(-1, 16),
    pickle.PickleBuffer(b"abc"),
    *(kind(5) for kind in (numpy.int8, numpy.int16, numpy.int32, numpy.int64, numpy.uint8, numpy.uint64)),
    *(kind(1.5) for kind in (numpy.float16, numpy.float32, numpy.float64, numpy.longdouble)),
    numpy.complex64(1j),
    numpy.complex128(1j),
    numpy.bool_(True),
    numpy.str_("a"),
    numpy.str_(""),
    numpy.bytes_(b"a"),
    numpy.void(b"abc"),
    numpy.datetime64("2020-02-29"),
    numpy.timedelta64(5, "s"),
    numpy.arange(3),
    numpy.arange(6)[::2],
    numpy.arange(6).reshape(2, 3),
    numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
    numpy.array(5),
    numpy.array([]),
    numpy.array(["a", "bc"]),
    numpy.array([None, "a"]),
    numpy.array([(1, 2.0)], dtype="i4,f8"),
    numpy.array([(1, 2.0)], dtype="i4,f8")[0],
    numpy.array(["2020-02-29"], dtype="M8[D]"),
    numpy.ma.masked_array([1, 2], mask=[0, 1]),
    numpy.array([(1, 2)], dtype="i4,i4").view(numpy.recarray),
]
OTHERS: list[Any] = [
    *(Colour.RED, Number.ONE, Word.A, Access.READ, Bits.READ, Record("a"), Point(1, "a")),
    *(Whole(5), Real(1.5), Complex(1j), Text("a"), Many([1]), Few([1]), Table(a=1), Bag([1]), Frozen([1])),
    collections.OrderedDict(a=1),
    collections.defaultdict(int, a=1),
    collections.Counter("abca"),
    collections.deque([1, 2]),
    collections.UserDict(a=1),
    datetime.date(2020, 2, 29),
    datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC),
    datetime.timedelta(1),
    decimal.Decimal("0.10"),
    Fraction(1, 3),
    uuid.UUID(int=5),
    pathlib.PurePosixPath("a/b"),
    sys.float_info,
    range(5),
    slice(1, 2),
    object(),
    Ellipsis,
    NotImplemented,
    int,
    Record,
    StopIteration,
    ValueError("a"),
    len,
    module_function,
    lambda: None,
    module_function.__code__,
    (number for number in range(3)),
    iter([1]),
    {}.keys(),
    sys,
]
BUILTINS: list[Any] = [
    *(None, True, False, 0, -1, 2**100, 0.0, -0.0, 1.5, math.inf, math.nan, 5e-324, 1j, complex(-0.0, math.nan)),
    *(complex(-0.0, 1), complex(0, -1), complex(1, -0.0), [-0.0, {"a": complex(-0.0, -0.0)}]),
    *("", "a", "s", "é\ud800", "s" * 300, b"", b"s", b"\xf3", b"s" * 300),
    *((), [], {}, set(), frozenset(), (1, "a"), [1, [2, (3,)]], {"a": {"b": [None]}}, {1: "a", (1, "s"): b"s"}),
    *({1, "a", b"b"}, frozenset({(1, 2), frozenset({3})}), {1.5: {2: {"s": [b"s", b""]}}}),
]

# Places where a foreign object may be; each says where that is.
PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "itself": (lambda part: part, "value"),
    "in a list": (lambda part: [1, part], "value[1]"),
    "in a tuple": (lambda part: ("s", b"s", part, 1), "value[2]"),
    "in a long list": (lambda part: [*range(1000), part], "value[1000]"),
    "in a dict": (lambda part: {"a": 1, "n": part}, "value['n']"),
    "in a large dict": (lambda part: {**{f"k{i}s": "s" for i in range(100)}, "n": part}, "value['n']"),
    "deep down": (lambda part: {"n": [1, 2, {"x": (b"s", part)}, "s"]}, "value['n'][2]['x'][1]"),
    "after bytes": (lambda part: [b"s", b"\xf3" * 300, {"s": b"s"}, part], "value[3]"),
    "in a dict of tuple keys": (lambda part: {(1, 2): [part]}, "value[<tuple>][0]"),
}
HASHED_PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "as a key": (lambda part: {"a": {part: 1}}, "value['a'] key <"),
    "in a key": (lambda part: {(1, part): 1}, "value key <tuple>[1]"),
    "in a set": (lambda part: [{"x", part}], "value[0] element <"),
    "in a frozenset": (lambda part: frozenset({("s", part)}), "value element <tuple>[1]"),
}


def name_of(part: object) -> str:
    kind = type(part)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def is_hashable(part: Any) -> bool:
    try:
        hash(part)
    except (TypeError, ValueError):
        return False
    return True


def is_same(one: Any, other: Any) -> bool:
    """Whether two objects are equal and of the same type, with all their parts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return is_same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(is_same(part, there) for there in other) for part in one)
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and repr(one) == repr(other)
    if isinstance(one, float | complex):  # NaN equals nothing, and -0.0 equals 0.0
        return repr(one) == repr(other)
    if isinstance(one, BaseException):
        return one.args == other.args
    if isinstance(one, ctypes.c_int64 | Structure):
        return bytes(one) == bytes(other)
    if type(one).__eq__ is object.__eq__:  # it equals nothing but itself; pickle makes one like it
        return True
    return bool(one == other)


def places(part: Any) -> Iterator[tuple[Any, str]]:
    for wrap, where in PLACES.values():
        yield wrap(part), where
    if is_hashable(part) and is_hashable((part,)):
        for wrap, where in HASHED_PLACES.values():
            yield wrap(part), where


# Each type in each place


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("part", [*BUFFERS, *OTHERS], ids=name_of)
def test_a_value_comes_back_as_it_was_or_is_refused(preset: str, part: Any) -> None:
    serdes = PRESETS[preset]
    for value, _ in places(part):
        try:
            data = serdes.dumps(value)
        except (TypeError, ValueError, AttributeError, pickle.PicklingError):
            continue
        assert type(data) is bytes
        back = serdes.loads(data)
        if preset == "bytes":
            assert back == memoryview(value).tobytes()  # any buffer is taken, and its bytes are given back
            continue
        if isinstance(value, pickle.PickleBuffer) or (preset == "pickle" and isinstance(part, pickle.PickleBuffer)):
            continue  # made for nothing but pickling: there is no way to get one back
        assert is_same(back, value), f"{value!r} came back as {back!r}"


@pytest.mark.parametrize("preset", ["marshal", "ordered"])
@pytest.mark.parametrize("part", BUFFERS, ids=name_of)
def test_no_buffer_is_stored_as_bytes_and_the_part_is_named(preset: str, part: Any, tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", serdes=preset, shards=1) as d:
        for value, where in places(part):
            with pytest.raises(SerializationError) as caught:
                d["k"] = value
            assert f"({where}" in str(caught.value)
            assert f": {name_of(part)}" in str(caught.value)
            assert "'pickle'" in str(caught.value)
        assert d.check() == 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", BUILTINS, ids=lambda value: type(value).__name__)
def test_builtin_values_come_back_as_they_were_or_are_refused(preset: str, value: Any) -> None:
    serdes = PRESETS[preset]
    try:
        data = serdes.dumps(value)
    except (TypeError, ValueError):
        assert preset not in ("marshal", "pickle", "ordered")
        return
    assert is_same(serdes.loads(data), value)
    if type(value) in (type(None), bool, int, float, complex, str, bytes):
        assert serdes.dump_scalar(value) == data


JSON_REFUSED: list[tuple[Any, str]] = [
    ((1, 2), r"value: tuple, which would come back as list.*list\(\.\.\.\)"),
    ({"a": [1, (2,)]}, r"value\['a'\]\[1\]: tuple, which would come back as list"),
    ({"a": {1: "x"}}, r"value\['a'\]: dict, with the key 1, which would come back as str"),
    ({None: 1}, "value: dict, with the key None"),
    ({True: 1, "a": 2}, "value: dict, with the key True"),
    ({numpy.str_("a"): 1}, r"value key <numpy\.str_>: numpy\.str_, which would come back as str"),
    ([numpy.float64(1.5)], r"value\[0\]: numpy\.float64, which would come back as float"),
    ([Number.ONE], r"value\[0\]: .*Number, which would come back as int.*int\(\.\.\.\)"),
    ({"a": Word.A}, r"value\['a'\]: .*Word, which would come back as str.*str\(\.\.\.\)"),
    ([Point(1, 2)], r"value\[0\]: .*Point, which would come back as list"),
    ([collections.OrderedDict(a=1)], r"value\[0\]: collections.OrderedDict, which would come back as dict"),
    ([b"a"], r"value\[0\]: bytes, which JSON does not have"),
    ({1, 2}, "value: set, which JSON does not have"),
]


@pytest.mark.parametrize(("value", "message"), JSON_REFUSED, ids=[message for _, message in JSON_REFUSED])
def test_json_refuses_what_it_would_change(value: Any, message: str, tmp_path: Path) -> None:
    with (
        PersistentDict(tmp_path / "d", serdes="json", shards=1) as d,
        pytest.raises(SerializationError, match=f"(?s){message}"),
    ):
        d["k"] = value


# Any structure

builtin = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.binary(), st.tuples(st.text())), inner, max_size=4),
        st.frozensets(st.one_of(st.text(), st.binary(), st.integers()), max_size=3),
    ),
    max_leaves=30,
)
numbers = st.lists(st.one_of(st.integers(), st.floats(allow_nan=False)), max_size=200)


@settings(deadline=None, max_examples=500)
@given(st.one_of(builtin, numbers))
def test_marshal_takes_every_builtin_value(value: Any) -> None:
    assert is_same(PRESETS["marshal"].loads(PRESETS["marshal"].dumps(value)), value)


@settings(deadline=None, max_examples=500)
@given(builtin, st.integers(0, len(BUFFERS) - 1), st.data())
def test_a_buffer_is_found_wherever_it_is(value: Any, number: int, data: st.DataObject) -> None:
    planted = plant(value, BUFFERS[number], data)
    with pytest.raises((TypeError, ValueError)):
        PRESETS["marshal"].dumps(planted)


def plant(value: Any, part: Any, data: st.DataObject) -> Any:
    """Return a value with one of its parts replaced."""
    if not isinstance(value, list | tuple | dict) or not value or data.draw(st.booleans()):
        return part
    if isinstance(value, dict):
        key = data.draw(st.sampled_from(list(value)))
        return {**value, key: plant(value[key], part, data)}
    index = data.draw(st.integers(0, len(value) - 1))
    items = list(value)
    items[index] = plant(items[index], part, data)
    return type(value)(items)


@pytest.mark.parametrize("size", [200, 255, 256, 300, 65_000, 65_536, 70_000, 1 << 20])
def test_a_buffer_is_found_in_data_of_any_length(size: int) -> None:
    dumps = PRESETS["marshal"].dumps
    assert dumps(["x" * size, b"s"])
    for part in (bytearray(b"abc"), bytearray(b"s" * size), numpy.zeros(size, "u1")):
        for value in (["x" * size, part], [part, "x" * size], {"s" * size: {"s": part}}):
            with pytest.raises(TypeError, match="bytes"):
                dumps(value)


def test_what_is_there_twice_or_contains_itself_is_looked_at_once() -> None:
    dumps, loads = PRESETS["marshal"].dumps, PRESETS["marshal"].loads
    shared: Any = [b"s"]
    for _ in range(60):
        shared = [shared, shared]  # 2**60 ways through it
    assert loads(dumps(shared))
    circle: list[Any] = [b"s"]
    circle.append(circle)
    back = loads(dumps(circle))
    assert back[1] is back
    for value in (shared, circle):
        value.append(bytearray(b"s"))
        with pytest.raises(TypeError):
            dumps(value)


def test_depth_that_marshal_takes_is_taken() -> None:
    dumps, loads = PRESETS["marshal"].dumps, PRESETS["marshal"].loads
    value: Any = b"s"
    foreign: Any = bytearray(b"s")
    for _ in range(1500):
        value, foreign = [value], [foreign]
    back = loads(dumps(value))
    while isinstance(back, list):
        back = back[0]
    assert back == b"s"
    with pytest.raises(TypeError, match="bytes"):
        dumps(foreign)


def test_code_and_slices_are_looked_into() -> None:
    dumps = PRESETS["marshal"].dumps
    code = module_function.__code__
    assert dumps([code, b"s"])
    with pytest.raises(TypeError):
        dumps([code.replace(co_consts=(numpy.float64(1.5),)), b"s"])
    if sys.version_info >= (3, 14):
        assert dumps([slice(1, b"s")])
        with pytest.raises(TypeError):
            dumps([slice(1, bytearray(b"s"))])
