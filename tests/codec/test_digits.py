"""Ints of more digits than Python writes or reads (sys.set_int_max_str_digits): stored, read, and spoken of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, SerializationError
from rack.codec.presets import make_json

HUGE = 7**9000  # 7,606 digits


@pytest.fixture(autouse=True)
def _limit() -> Any:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(4300)
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("serdes", ["marshal", "pickle", "json", "ordered"])
def test_they_are_values_of_every_serdes(tmp_path: Path, serdes: str) -> None:
    values = [HUGE, -HUGE, [HUGE, 1.5, None, "é", True], {"a": [HUGE], "é\n": {}}, [[]], 10**4300]
    with PersistentDict[str, Any](tmp_path / "store", serdes=serdes) as store:
        store.update((str(at), value) for at, value in enumerate(values))
        for at, value in enumerate(values):
            store["again"] = value
            assert store[str(at)] == store["again"] == value
        store["n"] = HUGE
        assert store.incr("n") == HUGE + 1


def test_json_is_as_json_writes_it() -> None:
    dump, load, _ = make_json()
    value = {"a": [HUGE, "\ud800 é", 1.5, -0.0, None, False], "b": {"c": -HUGE}}
    sys.set_int_max_str_digits(0)
    expected = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    sys.set_int_max_str_digits(4300)
    assert dump(value) == expected
    assert load(expected) == value
    for bad in (b'{"a":', b"[1,]", b"nope", b""):
        with pytest.raises(json.JSONDecodeError):
            load(bad)


@pytest.mark.parametrize("serdes", ["marshal", "json", "pickle", "str", "bytes", "ordered"])
def test_errors_speak_of_them(tmp_path: Path, serdes: str) -> None:
    bad = [{HUGE: lambda: 0}, [HUGE, lambda: 0], {HUGE}, (HUGE, object)]
    with PersistentDict[Any, Any](tmp_path / "store", serdes=serdes) as store:
        for value in bad:
            if serdes == "marshal" and value == {HUGE}:
                continue
            if serdes == "pickle" and value in ({HUGE}, (HUGE, object)):
                continue
            if serdes == "ordered" and value == {HUGE}:
                continue
            with pytest.raises(SerializationError):
                store["a"] = value
            with pytest.raises(SerializationError) as caught:
                store.update([(HUGE, value)] if serdes not in ("str", "bytes") else [("a" * 3, value)])
            assert "row 1 was bad" in caught.value.__notes__[0]


def test_an_import_speaks_of_them(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "store") as store:
        for row in (HUGE, (HUGE,), (HUGE, object()), (object(), HUGE), [HUGE] * 3):
            with pytest.raises((TypeError, ValueError)) as caught:
                store.update([row])
            assert "row 1 was bad" in caught.value.__notes__[0]
    with PersistentSet[Any](tmp_path / "set", serdes="str") as texts:
        with pytest.raises(SerializationError):
            texts.update([HUGE])
        assert HUGE not in texts
        with pytest.raises(SerializationError):
            list(texts.scan(start=HUGE))
        with pytest.raises(SerializationError):
            list(texts.scan(prefix=HUGE))
