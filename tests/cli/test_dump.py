"""``rack dump``: what it writes, where, and that it is whole or not there; with ``rack load`` all comes back."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import io
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import PersistentDict, PersistentSet
from rack.cli import main
from rack.codec.canonical import plain
from rack.codec.failure import RefusedError
from rack.store.manifest import Manifest
from tests.cli.test_ends import ENVIRONMENT, pipe_of, running
from tests.codec.test_tagged import FLOATS, HASHABLE, TEXTS, VALUES, is_same
from tests.support.commands import RACK, Rack
from tests.support.commands import rack as rack
from tests.support.processes import end_sound as end_sound

pytest.importorskip("click")
pytest.importorskip("rich")

# All comes back

NUMBERS = st.integers() | st.floats(allow_nan=False)
ORDERED = st.recursive(
    st.none() | NUMBERS | TEXTS | st.binary(), lambda parts: st.lists(parts).map(tuple), max_leaves=5
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda parts: st.lists(parts) | st.dictionaries(TEXTS, parts),
    max_leaves=8,
)


def is_key(key: Any) -> bool:
    """Whether it can be a key: one with several NaNs, which are one here, is refused."""
    try:
        plain(key)
    except RefusedError:
        return False
    return True


KEYS = HASHABLE.filter(is_key)
#: Keys and values of each serdes.
KINDS: dict[str, tuple[Any, Any]] = {
    "marshal": (KEYS, VALUES),
    "ordered": (ORDERED, VALUES),
    "str": (TEXTS, TEXTS),
    "bytes": (st.binary(), st.binary()),
    "json": (KEYS, JSON),
    "pickle": (KEYS, VALUES | st.dates() | st.decimals(allow_nan=False)),
}


@pytest.mark.parametrize("serdes", KINDS)
def test_whatever_a_store_holds_comes_back_in_one_of_the_other_engine(serdes: str, tmp_path: Path) -> None:
    keys, values = KINDS[serdes]
    number = 0

    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.dictionaries(keys, values, max_size=10), st.sampled_from([("lmdb", "sqlite3"), ("sqlite3", "lmdb")]))
    def check(content: dict[Any, Any], engines: tuple[str, str]) -> None:
        nonlocal number
        number += 1
        first, second, file = (str(tmp_path / f"{name}{number}") for name in ("a", "b", "f"))
        for kind, options in ((PersistentDict, {}), (PersistentSet, {})):
            with kind(first, serdes=serdes, engine=engines[0], shards=1, durability="process", **options) as store:
                store.update(content)
                expected = [*store.items()] if isinstance(store, PersistentDict) else [*store]
            assert main(["dump", first, file, "-q"]) == 0
            assert main(["load", second, file, "-q", "--new", "--engine", engines[1]]) == 0
            with kind(second) as store:
                found = [*store.items()] if isinstance(store, PersistentDict) else [*store]
                assert is_same(found, expected)
                assert store.check() == len(expected)
                mine, theirs = Manifest.read(first), Manifest.read(second)
                assert mine is not None
                assert theirs is not None
                assert mine._replace(engine=engines[1], id="") == theirs._replace(id="")
                assert store._open_store().durability == "process"
            again = f"{file}-again"
            assert main(["dump", second, again, "-q"]) == 0
            assert Path(again).read_bytes().splitlines()[1:] == Path(file).read_bytes().splitlines()[1:]
            for path in tmp_path.iterdir():
                path.unlink()

    check()


APP = """
import enum
class Colour(enum.Enum):
    RED = 1
"""


@dataclass(frozen=True)
class Point:
    x: int
    y: int


CANONICAL: list[Any] = [
    *(Decimal("0.1"), date(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC), UUID(int=5), range(3), Path("a")),
    *(frozenset([Decimal("0.1")]), ("t", date(2024, 2, 29)), Point(1, 2), len),
]


@pytest.mark.parametrize("serdes", ["marshal", "pickle"])
def test_keys_of_classes_come_back_and_no_class_is_looked_up(
    rack: Rack, serdes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / f"app_{serdes}.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    red = importlib.import_module(f"app_{serdes}").Colour.RED
    with PersistentDict[Any, Any]("a", shards=2, serdes=serdes) as a:
        a.update({key: number for number, key in enumerate([*CANONICAL, red])})
        expected = dict(a)
    # In a process of its own, which does not find that module.
    for command in (["dump", "a", "f", "-q"], ["load", "b", "f", "-q"], ["keys", "b"]):
        done = subprocess.run([*RACK, *command], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert f"<enum app_{serdes} Colour RED>" in done.stdout
    with PersistentDict[Any, Any]("b") as b:
        assert {**b} == expected
        assert b.check() == len(CANONICAL) + 1
    listed = rack("keys", "b", "--json").output
    assert rack("has", "b", "--key", "json", data=listed) == (0, listed, "")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_pickles_come_back_and_are_not_run(rack: Rack, tmp_path: Path) -> None:
    with PersistentDict[str, Any]("a", shards=1, serdes="pickle") as a:
        a.update({"plain": [1, (2,), {3}], "class": Point(1, 2), "evil": Evil()})
    assert rack("dump", "a", "f").code == rack("load", "b", "f").code == 0
    assert not (tmp_path / "ran").exists()
    values = {entry["key"]: entry["value"] for entry in map(json.loads, Path("f").read_text().splitlines()[1:-1])}
    assert values["plain"] == [1, {"$tuple": [2]}, {"$set": [3]}]
    assert values["class"].keys() == values["evil"].keys() == {"$pickle"}
    with PersistentDict[str, Any]("b") as b:
        assert (b["plain"], b["class"]) == ([1, (2,), {3}], Point(1, 2))
        assert b["evil"] is None  # it runs now
    assert (tmp_path / "ran").exists()
    done = rack("load", "c", "f", "--serdes", "marshal")
    assert "has a pickle, which only a store with the serdes pickle can hold; c was not made" in done.errors


class Upper:
    @staticmethod
    def dumps(value: str) -> bytes:
        return value.upper().encode()

    @staticmethod
    def loads(data: bytes) -> str:
        return data.decode().lower()


@pytest.mark.parametrize("kind", [PersistentDict, PersistentSet])
def test_serdes_of_the_users_own_come_back_as_stored_bytes(rack: Rack, kind: Any) -> None:
    options = {"serdes": Upper, "key_serdes": Upper} if kind is PersistentDict else {"serdes": Upper}
    with kind("a", shards=2, **options) as a:
        a.update({"a": "b", "c": "d"} if kind is PersistentDict else ["a", "c"])
        expected = a.copy()
    assert rack("dump", "a", "f", "-q").code == 0
    done = rack("load", "b", "f")
    assert done.code == 1
    assert "line 1 of f: the header of a store with the serdes Upper, which is not Rack's: --raw" in done.errors
    assert rack("load", "b", "f", "--raw", "-q").code == rack("load", "b", "f", "--raw", "-q").code == 0
    with expected, kind("b", **options) as b:
        assert b == expected
        assert b.check() == 2
    if kind is PersistentDict:
        assert rack("load", "c", "f", "--serdes", "json", "--key-serdes", "str").errors.endswith(
            "line 2 of f: has stored bytes that only the store's own functions understand: --raw takes them;"
            " c was not made\n"
        )


# What is written, and where


def test_a_dump_is_a_header_entries_in_order_and_a_last_line(rack: Rack) -> None:
    with PersistentDict[str, Any]("d", key_serdes="str", shards=3, engine="sqlite3") as d:
        d.update({"b": 1, "a": (2,), "c": None})
    done = rack("dump", "d")
    assert done.errors == "rack dump: 3 entries dumped\n"
    header, *entries, last = map(json.loads, done.output.splitlines())
    assert header == {
        "format": "rack-dump",
        "version": 1,
        "kind": "dict",
        "engine": "sqlite3",
        "shards": 3,
        "serdes": "marshal",
        "key_serdes": "str",
        "hash": "sha256",
        "layout": "direct",
        "durability": "everysec",
    }
    assert entries == [{"key": "a", "value": {"$tuple": [2]}}, {"key": "b", "value": 1}, {"key": "c", "value": None}]
    assert last == {"format": "rack-dump", "entries": 3, "end": True}


OPENERS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@pytest.mark.parametrize("suffix", [*OPENERS, ".zst"])
def test_a_suffix_says_how_it_is_compressed_and_in_which_format_it_is(rack: Rack, suffix: str) -> None:
    with PersistentDict[str, str]("d", serdes="str", shards=2) as d:
        d.update({"k" * 100 + str(number): "v" * 100 for number in range(3000)})
    for format in ("jsonl", "csv", "tsv"):
        file = f"f.{format}{suffix}"
        assert rack("dump", "d", file) == (0, "", f"rack dump: 3,000 entries dumped to {file}\n")
        if suffix in OPENERS:
            with OPENERS[suffix](file, "rb") as opened:
                assert opened.read().decode() == rack("dump", "d", "--format", format, "-q").output
        assert rack("load", format, file) == (0, "", "rack load: 3,000 entries loaded\n")
        with d, PersistentDict[str, str](format) as loaded:
            assert loaded == d
        if suffix:
            assert os.path.getsize(file) < 60_000


def test_a_table_is_text_unless_it_is_said_to_be_more(rack: Rack) -> None:
    content = {"a": 1, "tab\t": "line\r\nend", '"quoted", ': 2.5, "": None, b"\xff": True, "é": b"\xfe"}
    with PersistentDict[Any, Any]("d", shards=2) as d:
        d.update(content)
    data = Path("f.csv")
    assert rack("dump", "d", data, "-q").code == 0
    rows = [*csv.reader(io.StringIO(data.read_bytes().decode("utf-8", "surrogateescape"), newline=""))]
    assert rows[0] == ["key", "value"]
    assert {tuple(row) for row in rows[1:]} == {
        *(("a", "1"), ("tab\t", "line\r\nend"), ('"quoted", ', "2.5"), ("", "None")),
        *(("\udcff", "True"), ("é", "\udcfe")),
    }
    for format in ("csv", "tsv"):
        for type in ("json", "literal"):
            name = f"{format}-{type}"
            options = ["--key", type, "--value", type, "-q"]
            assert rack("dump", "d", f"{name}.{format}", *options).code == 0
            assert rack("load", name, f"{name}.{format}", *options, "--serdes", "marshal").code == 0
            with PersistentDict[Any, Any](name) as loaded:
                assert {key: (type_, value) for key, value in loaded.items() if (type_ := value.__class__)} == {
                    key: (value.__class__, value) for key, value in content.items()
                }
    assert rack("load", "b", "f.csv", "--serdes", "bytes", "-q").code == 0
    with PersistentDict[bytes, bytes]("b") as as_bytes:
        assert as_bytes[b"\xff"] == b"True"
        assert as_bytes["é".encode()] == b"\xfe"


def test_a_dump_that_fails_leaves_what_there_was(rack: Rack, tmp_path: Path) -> None:
    with PersistentDict[str, Any]("d", key_serdes="str", shards=1) as d:
        d.update({**{f"{number:05}": "x" * 100 for number in range(5000)}, "~": [1]})
    Path("f.csv").write_text("before")
    before = {*tmp_path.iterdir()}
    done = rack("dump", "d", "f.csv")
    assert (done.code, done.output) == (1, "")
    assert done.errors == (
        "rack dump: list has no text, as str, bytes and numbers have:"
        " --key and --value say how it is written, json or literal\n"
    )
    assert Path("f.csv").read_text() == "before"
    assert {*tmp_path.iterdir()} == before
    assert rack("dump", "d", "f.csv", "--value", "json", "-q").code == 0
    assert Path("f.csv").read_text().endswith("~,[1]\n")
    assert rack("dump", "d", "no/f.jsonl").errors == "rack dump: no/f.jsonl: No such file or directory\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_to_be_one(rack: Rack) -> None:
    with PersistentSet[str]("s", serdes="str") as s:
        s.add("a")
    assert rack("dump", "s", "/dev/full").errors == "rack dump: cannot write to /dev/full: No space left on device\n"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    with PersistentSet[bytes](tmp_path / "large", serdes="bytes", shards=2) as store:
        store.update(b"%d" % number for number in range(200_000))
    return tmp_path


def test_a_dump_is_loaded_through_a_pipe(large: Path) -> None:
    rack_ = f'"{sys.executable}" -m rack'
    load = f"{rack_} dump large -q | gzip | gzip -d | {rack_} load other --engine sqlite3 -q"
    script = f"{load} && {rack_} compare large other"
    done = subprocess.run(["sh", "-c", script], cwd=large, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in both\t200000" in done.stdout


def test_a_closed_pipe_ends_it_quietly(large: Path) -> None:
    with running("dump", "large", cwd=large) as process:
        assert pipe_of(process.stdout).readline().startswith(b'{"format":"rack-dump"')
        pipe_of(process.stdout).close()
        assert process.wait(10) == -signal.SIGPIPE
        assert pipe_of(process.stderr).read() == b""


def test_ctrl_c_leaves_no_file(large: Path) -> None:
    before = {*large.iterdir()}
    with running("dump", "large", "f.jsonl.gz", cwd=large) as process:
        while not [*large.glob("f.jsonl.gz.part-*")]:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        assert pipe_of(process.stderr).read() == b""
    assert {*large.iterdir()} == before
