"""Serializers: what may be given, what is tried at open, what is recorded, and what bad ones are told."""

from __future__ import annotations

import datetime
import json
import marshal
import pickle
import types
from pathlib import Path
from typing import Any

import pytest

from rack import DeserializationError, MismatchError, PersistentDict, PersistentSet, RackError, SerializationError
from rack.codec.serdes import PRESETS, resolve
from rack.shard import ENGINES
from tests.support.processes import end_sound as end_sound

VALUES: dict[str, list[Any]] = {
    "marshal": [None, 1, 2**100, 1.5, 1j, "é\ud800", b"b", (1, (2,)), [1, [2]], {"a": {1, 2}}, frozenset({1}), True],
    "pickle": [None, 1, "é\ud800", [1], {"a": {1}}, datetime.date(2020, 2, 29), complex, True],
    "json": [None, 1, 2**100, 1.5, "é\ud800", [1, [2]], {"a": {"b": None}}, True],
    "str": ["", "é\ud800\0", "long" * 1000],
    "bytes": [b"", b"\0\xff", b"long" * 1000],
    "ordered": [None, [1], {"a": 1}],
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Reversing:
    """A serializer of a user: JSON, backwards."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value).encode()[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data[::-1])


@pytest.mark.parametrize("preset", VALUES)
def test_a_preset_holds_its_values_and_is_recorded(tmp_path: Path, engine: str, preset: str) -> None:
    assert set(VALUES) == set(PRESETS)
    key: Any = b"k" if preset == "bytes" else "k"
    for value in VALUES[preset]:
        with PersistentDict(tmp_path / "d", serdes=preset, engine=engine, shards=1) as d:
            d[key] = value
        with PersistentDict(tmp_path / "d") as d:  # the manifest tells how
            assert d[key] == value
            assert type(d[key]) is type(value)
            assert d.check() == 1


@pytest.mark.parametrize(("module", "preset"), [(marshal, "marshal"), (pickle, "pickle"), (json, "json")])
def test_a_module_of_the_standard_library_is_the_preset(tmp_path: Path, module: Any, preset: str) -> None:
    with PersistentDict(tmp_path / "d", serdes=module, shards=1) as d:
        d["k"] = [1]
    with PersistentDict(tmp_path / "d", serdes=preset) as d:
        assert d["k"] == [1]
        assert d.check() == 1


@pytest.mark.parametrize(
    "serdes",
    [
        Reversing,
        Reversing(),
        (Reversing.loads, Reversing.dumps),
        types.SimpleNamespace(dumps=json.dumps, loads=json.loads),
        (lambda data: json.loads(data), lambda value: json.dumps(value)),
        (lambda data: json.loads(bytes(data)), lambda value: bytearray(json.dumps(value).encode())),
        (lambda data: json.loads(bytes(data)), lambda value: memoryview(json.dumps(value).encode())),
        (lambda data: int(data), lambda value: str(int(value))),
        (lambda data: data.removeprefix("é"), lambda value: "é" + value),
    ],
    ids=["class", "object", "pair", "namespace", "lambdas", "bytearray", "memoryview", "ints", "text"],
)
def test_an_object_or_a_pair_is_a_serdes(tmp_path: Path, engine: str, serdes: Any) -> None:
    for value in (5, "text", [1]):
        try:
            (serdes[1] if isinstance(serdes, tuple) else serdes.dumps)(value)
        except (TypeError, ValueError):
            continue
        with PersistentDict(tmp_path / "d", serdes=serdes, engine=engine, shards=2) as d:
            d["k"] = value
        with PersistentDict(tmp_path / "d", serdes=serdes) as d:
            assert d["k"] == value
            assert d.check() == 1


def test_text_output_is_stored_as_utf8(tmp_path: Path) -> None:
    serdes = resolve((lambda text: text[1:], lambda value: "é" + value))
    assert serdes.dumps("x") == "éx".encode()
    assert serdes.loads("éx".encode()) == "x"


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("unknown preset", "yaml", ValueError, "'yaml' is not a preset.*'marshal'"),
    ("no serdes", 5, TypeError, "not the name of a preset"),
    ("dumps only", types.SimpleNamespace(dumps=json.dumps), TypeError, "not the name of a preset"),
    ("three functions", (json.loads, json.dumps, json.dumps), TypeError, "not the name of a preset"),
    ("not callable", (1, json.dumps), TypeError, "callable"),
    ("pair in the wrong order", (marshal.dumps, marshal.loads), SerializationError, r"\(loads, dumps\)"),
    ("JSON in the wrong order", (json.dumps, json.loads), SerializationError, r"\(loads, dumps\)"),
    ("output that is not bytes", (json.loads, lambda value: [value]), SerializationError, "gave list, not bytes"),
]


@pytest.mark.parametrize(("what", "serdes", "error", "message"), BAD, ids=[row[0] for row in BAD])
@pytest.mark.parametrize("argument", ["serdes", "key_serdes"])
def test_a_bad_serdes_is_refused_before_anything_is_made(
    tmp_path: Path, what: str, serdes: Any, error: type[Exception], message: str, argument: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        PersistentDict(tmp_path / "d", **{argument: serdes}).open()
    assert list(tmp_path.iterdir()) == []


def test_a_serdes_of_the_user_must_be_given_again_and_be_the_same(tmp_path: Path, engine: str) -> None:
    with PersistentDict(tmp_path / "d", serdes=Reversing, engine=engine, shards=1) as d:
        d["k"] = 1
    with pytest.raises(MismatchError, match=r"Reversing.*give it too"):
        PersistentDict(tmp_path / "d").open()
    for other in (types.SimpleNamespace(dumps=json.dumps, loads=json.loads), "json", "marshal"):
        with pytest.raises(MismatchError, match="serdes"):
            PersistentDict(tmp_path / "d", serdes=other).open()
    with PersistentDict(tmp_path / "d", serdes=Reversing) as d:
        assert d["k"] == 1
        assert d.check() == 1


def test_a_key_serdes_of_the_user_decides_the_bytes_of_keys(tmp_path: Path, engine: str) -> None:
    upper = (lambda data: data.decode()[1:], lambda text: f"+{text}".encode())
    with PersistentSet(tmp_path / "s", key_serdes=upper, engine=engine, shards=1) as s:
        s.update(["b", "a"])
        assert list(s) == ["a", "b"]
        with pytest.raises(TypeError, match="unhashable"):
            s.add([])
        assert s.check() == 2
    with pytest.raises(MismatchError, match="give it too"):
        PersistentSet(tmp_path / "s").open()
    with PersistentSet(tmp_path / "s", key_serdes=upper) as s:
        assert set(s) == {"a", "b"}


def test_a_preset_that_contradicts_the_store_is_refused(tmp_path: Path, engine: str) -> None:
    with PersistentDict(tmp_path / "d", serdes="json", engine=engine, shards=1) as d:
        d["k"] = [1]
    for other in ("pickle", "marshal", "str"):
        with pytest.raises(MismatchError, match=rf"serdes='{other}'.*serdes='json'"):
            PersistentDict(tmp_path / "d", serdes=other).open()
    with pytest.raises(MismatchError, match=r"key_serdes='ordered'.*key_serdes='canonical"):
        PersistentDict(tmp_path / "d", key_serdes="ordered").open()
    with PersistentDict(tmp_path / "d", serdes="json") as d:
        assert d["k"] == [1]


@pytest.mark.parametrize("preset", ["pickle", "json"])
def test_keys_take_the_canonical_form_beside_values_that_have_none(tmp_path: Path, engine: str, preset: str) -> None:
    with PersistentDict(tmp_path / "d", serdes=preset, engine=engine, shards=2) as d:
        for key in (1, 1.0, True, (1, "a"), (1.0, "".join(["", "a"])), b"a", None):
            d[key] = "v"
        assert list(d) == sorted(d, key=lambda key: marshal.dumps(key, 2))
        assert set(d) == {1, (1, "a"), b"a", None}
        assert d.check() == 4


def test_keys_that_marshal_cannot_hold_are_packed(tmp_path: Path, engine: str) -> None:
    day = datetime.date(2020, 2, 29)
    with PersistentDict(tmp_path / "d", serdes="pickle", engine=engine, shards=2) as d:
        d[day] = d[day, 1] = d[frozenset({day, 1})] = "v"
        assert set(d) == {day, (day, 1), frozenset({day, 1})}
        assert all(d[key] == "v" for key in ((day, 1.0), frozenset({True, day})))
        assert d.check() == 3


CASES: list[tuple[str, Any, str]] = [
    ("marshal", datetime.date(2020, 1, 1), "datetime.date.*pickle"),
    ("marshal", [1, object()], "list.*object.*pickle"),
    ("marshal", {"a": object()}, "dict.*object.*pickle"),
    ("pickle", lambda: None, "function.*own"),
    ("json", {1, 2}, "set.*pickle"),
    ("json", object(), "object.*pickle"),
    ("str", 1, "int.*holds str"),
    ("bytes", "text", "str.*holds bytes"),
    ("ordered", object(), "object.*pickle"),
]


@pytest.mark.parametrize(("serdes", "value", "message"), CASES, ids=[f"{case[0]} {case[1]!r:.12}" for case in CASES])
def test_what_cannot_be_stored_is_named_with_advice(tmp_path: Path, serdes: str, value: Any, message: str) -> None:
    key: Any = b"k" if serdes == "bytes" else "k"
    with PersistentDict(tmp_path / "d", serdes=serdes, shards=1) as d:
        for store in (lambda: d.__setitem__(key, value), lambda: d.update({key: value}), lambda: d.add(key, value)):
            with pytest.raises(SerializationError, match=f"(?s)value of type .*{message}") as caught:
                store()
            assert isinstance(caught.value, TypeError)
            assert isinstance(caught.value, RackError)
        assert d.check() == 0


def test_stored_bytes_that_cannot_be_loaded_are_named(tmp_path: Path, engine: str) -> None:
    def dumps(value: Any) -> bytes:
        return b"broken" if value == "break" else json.dumps(value).encode()

    with PersistentDict(tmp_path / "d", serdes=(json.loads, dumps), engine=engine, shards=1) as d:
        d["good"], d["bad"] = 1, "break"
        for read in (
            lambda: d["bad"],
            lambda: d.get("bad"),
            lambda: list(d.items()),
            lambda: d.get_many(["bad"]),
            d.check,
        ):
            with pytest.raises(DeserializationError, match="broken"):
                read()
        assert sorted(d) == ["bad", "good"]
        assert d["good"] == 1
        d["bad"] = 2
        assert d.check() == 2


def test_a_set_of_bytes_stores_its_elements_as_they_are(tmp_path: Path, engine: str) -> None:
    elements = {b"", b"\0", b"line", b"x" * 2000}
    with PersistentSet(tmp_path / "s", serdes="bytes", engine=engine, shards=3) as s:
        s.update(elements)
        assert set(s) == elements
        assert s.check() == 4


@pytest.mark.parametrize("operation", ["pop", "popitem"])
def test_a_value_that_cannot_be_loaded_is_not_lost_by_being_popped(tmp_path: Path, operation: str) -> None:
    with PersistentDict(tmp_path / "store", serdes="json") as d:
        d["k"] = 1
        key = d._dump_key("k")
        d._route(key).put(key, b"{no json")
        with pytest.raises(DeserializationError, match="no json"):
            d.pop("k") if operation == "pop" else d.popitem()
        assert d._route(key).get(key) == b"{no json"
        d["k"] = 2
        assert d.check() == 1


def test_an_element_that_cannot_be_loaded_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "store", shards=1) as s:
        s.add("a")
        s._route(b"?!").put(b"?!", b"")
        for read in (s.pop, lambda: [s.pop(), s.pop()], lambda: list(s), s.check):
            with pytest.raises(DeserializationError, match=r"\?!"):
                read()
            s.add("a")
        assert len(s) == 2
        assert s._route(b"?!").delete(b"?!")
        assert s.check() == 1
