"""What is foreign is refused by all that writes, with advice; NumPy's numbers count; "bytes" takes any buffer."""

from __future__ import annotations

import array
import collections
import datetime
import mmap
from pathlib import Path
from typing import Any

import numpy
import pytest

from rack import PersistentDict, RackError, SerializationError
from tests.codec.test_foreign_values import BUFFERS, Point, Raw, Word, is_same, name_of
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

# All that writes


@pytest.mark.parametrize("serdes", ["marshal", "json", "str"])
def test_every_operation_refuses_and_changes_nothing(serdes: str, tmp_path: Path, engine: str) -> None:
    value = numpy.str_("a") if serdes == "str" else [numpy.float64(1.5)]
    plain = "a" if serdes == "str" else [1.5]
    with PersistentDict[Any, Any](tmp_path / "d", serdes=serdes, engine=engine, shards=2) as d:
        d["there"] = plain
        for write in (
            lambda: d.__setitem__("there", value),
            lambda: d.add("new", value),
            lambda: d.setdefault("new", value),
            lambda: d.update({"new": value}),
            lambda: d.update(new=value),
            lambda: d.transform("there", lambda _: value),
            lambda: d.transform("new", lambda _: value),
            lambda: d.compare_and_set("there", plain, value),
            lambda: d.merge({"there": plain}, lambda key, mine, theirs: value),
            lambda: PersistentDict.fromkeys(["new"], value, name=tmp_path / "made", serdes=serdes),
        ):
            with pytest.raises(SerializationError, match=r"numpy\.\w+") as caught:
                write()
            assert isinstance(caught.value, TypeError)
            assert isinstance(caught.value, RackError)
        assert dict(d) == {"there": plain}
        assert d.check() == 1
    assert not (tmp_path / "made.rack").exists()


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (numpy.arange(3), r"\.tolist\(\)"),
        (numpy.float64(1.5), r"\.tolist\(\)"),
        (array.array("d"), r"\.tolist\(\)"),
        (bytearray(b"a"), r"bytes\(\.\.\.\)"),
        (Raw(b"a"), r"bytes\(\.\.\.\)"),
        (Word.A, r"str\(\.\.\.\)"),
        (Point(1, 2), r"tuple\(\.\.\.\)"),
        (collections.OrderedDict(), r"dict\(\.\.\.\)"),
        (datetime.date(2020, 1, 1), "serdes='pickle'"),
    ],
    ids=name_of,
)
def test_the_error_says_what_to_do(value: Any, advice: str, tmp_path: Path) -> None:
    with (
        PersistentDict(tmp_path / "d", shards=1) as d,
        pytest.raises(SerializationError, match=f"store.*{advice}|{advice}"),
    ):
        d["k"] = {"v": value}


@pytest.mark.parametrize("serdes", ["marshal", "pickle", "json"])
@pytest.mark.parametrize(
    ("delta", "total"),
    [
        (numpy.int64(2), 2),
        (numpy.uint8(250), 250),
        (numpy.int8(-3), -3),
        (numpy.float64(0.5), 0.5),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), 1),
        (numpy.int64(2**62), 2**62),
    ],
    ids=name_of,
)
def test_incr_by_a_numpy_number_counts(serdes: str, delta: Any, total: Any, tmp_path: Path, engine: str) -> None:
    with PersistentDict[str, Any](tmp_path / "d", serdes=serdes, engine=engine, shards=1) as d:
        for times in range(1, 5):
            result = d.incr("k", delta)
            assert result == total * times
            assert type(result) in (int, float)
            assert is_same(d["k"], result)
        assert is_same(d.incr("new", 1, default=numpy.int64(5)), 6)


@pytest.mark.parametrize("buffer", BUFFERS, ids=name_of)
def test_the_preset_bytes_takes_every_buffer(buffer: Any, tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", serdes="bytes", shards=1) as d:
        try:
            expected = memoryview(buffer).tobytes()
            holds_addresses = "O" in memoryview(buffer).format
        except ValueError:  # NumPy: no buffer of a date
            expected, holds_addresses = b"", True
        if holds_addresses:
            with pytest.raises(SerializationError, match=r"value: numpy\.\w+"):
                d[b"k"] = buffer
        else:
            d[b"k"] = buffer
            assert d[b"k"] == expected
            assert type(d[b"k"]) is bytes


def test_a_buffer_is_let_go_of(tmp_path: Path) -> None:
    grown, mapped = bytearray(b"abc"), mmap.mmap(-1, 16)
    with PersistentDict(tmp_path / "d", serdes="bytes", shards=1) as d:
        d[b"a"], d[b"b"] = grown, mapped
    grown.append(0)
    mapped.close()
