"""``rack get``, ``has``, ``count``, ``keys`` and ``items``: what is in a store, and in which form it is written."""

from __future__ import annotations

import ast
import datetime
import json
import os
import pty
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.cli.lines import harmless
from tests.cli.test_ends import ENVIRONMENT
from tests.support.commands import RACK, Rack
from tests.support.commands import rack as rack
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytest.importorskip("click")
pytest.importorskip("rich")


@pytest.fixture
def ages(tmp_path: Path) -> Path:
    with PersistentDict[Any, Any](tmp_path / "ages", shards=2) as ages:
        ages.update({"ann": 31, "bob": [7, None], 5: "five", ("t", 1): b"\xff\n", -1: frozenset([1]), b"k": "k"})
    return tmp_path / "ages"


@pytest.mark.usefixtures("engine")
def test_get_writes_the_value_and_its_exit_code_is_1_if_there_is_none(rack: Rack, ages: Path) -> None:
    assert rack("get", "ages", "'ann'") == (0, "31\n", "")
    assert rack("get", "ages", "ann", "--key", "text") == (0, "31\n", "")
    assert rack("get", "ages", '"bob"', "--key", "json") == (0, "[7, None]\n", "")
    assert rack("get", "ages", '{"$tuple":["t",1]}', "--key", "json") == (0, "b'\\xff\\n'\n", "")
    assert rack("get", "ages.rack", "5") == (0, "'five'\n", "")
    assert rack("get", "ages", "5.0", "--value", "text", "-0") == (0, "five\0", "")
    assert rack("get", "ages", "-1", "--value", "json") == (0, '{"$frozenset":[1]}\n', "")
    assert rack("get", "ages", "6") == rack("get", "ages", "'5'") == (1, "", "")
    assert rack("get", "ages", "5", "--value", "json", "--kye", "text").code == 2


def test_has_tells_by_its_exit_code(rack: Rack, ages: Path) -> None:
    assert rack("has", "ages", "5") == (0, "", "")
    assert rack("has", "ages", "'5'") == (1, "", "")
    assert rack("has", "ages", "-1") == (0, "", "")
    assert rack("has", "ages", "-2") == (1, "", "")


def test_many_keys_come_from_standard_input(rack: Rack, ages: Path) -> None:
    assert rack("get", "ages", "--key", "text", data="ann\nzoe\nbob") == (1, "ann\t31\nbob\t[7, None]\n", "")
    assert rack("get", "ages", "-", data="5\n('t', 1)\n") == (0, "5\t'five'\n('t', 1)\tb'\\xff\\n'\n", "")
    assert rack("has", "ages", data="5\n6\n-1\n") == (1, "5\n-1\n", "")
    assert rack("has", "ages", "-0", data="5\0-1\0") == (0, "5\0-1\0", "")
    assert rack("has", "ages", data="") == (0, "", "")
    done = rack("has", "ages", data="5\n-1\nfive\n5\n")
    assert (done.code, done.output) == (2, "5\n-1\n")
    assert done.errors.startswith("rack has: line 3: 'five' is no Python literal")
    lines = [*range(3000)]
    assert rack("has", "ages", data="\n".join(map(str, lines))).output == "5\n"


@pytest.mark.parametrize(
    ("serdes", "key", "value", "key_word", "shown"),
    [
        ("str", "ann é", "a\tb", "ann é", "a\tb"),
        ("bytes", b"5", b"6", "5", "6"),
        ("json", "5", {"a": [None, "é"]}, "'5'", '{"a":[null,"é"]}'),
        ("ordered", (1, "a"), {2}, "(1, 'a')", "{2}"),
        ("pickle", 5, {1: (2,)}, "5", "{1: (2,)}"),
    ],
)
def test_the_serdes_decides_how_keys_and_values_are_written(
    rack: Rack, serdes: str, key: Any, value: Any, key_word: str, shown: str
) -> None:
    with PersistentDict[Any, Any]("d", serdes=serdes, shards=1) as d:
        d[key] = value
    assert rack("get", "d", key_word) == (0, f"{shown}\n", "")
    assert rack("keys", "d") == (0, f"{key_word}\n", "")
    assert rack("items", "d") == rack("scan", "d") == (0, f"{key_word}\t{shown}\n", "")
    listed = rack("keys", "d", "--json").output
    assert rack("has", "d", "--key", "json", data=listed) == (0, listed, "")


def test_count(rack: Rack, ages: Path) -> None:
    assert rack("count", "ages") == (0, "6\n", "")
    with PersistentSet[str]("s", serdes="str") as s:
        s.update(f"{number:03}" for number in range(1000))
    assert rack("count", "s", "--prefix", "12") == (0, "10\n", "")
    assert rack("count", "s", "--prefix", "x") == (0, "0\n", "")


def test_any_store_is_listed_in_the_order_of_its_bytes(rack: Rack, ages: Path) -> None:
    with PersistentDict[Any, Any]("ages") as ages_:
        expected = [*ages_.items()]
    lines = rack("scan", "ages").output.splitlines()
    assert [tuple(map(ast.literal_eval, line.split("\t"))) for line in lines[:-1] if "frozen" not in line]
    assert [line.split("\t")[0] for line in lines] == [repr(key) for key, _ in expected]
    assert rack("keys", "ages", "--limit", "2").output.splitlines() == [repr(key) for key, _ in expected[:2]]
    assert rack("keys", "ages", "--reverse", "--limit", 1).output == f"{expected[-1][0]!r}\n"


class Secret:
    """Has a serdes of its own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return repr(value).encode()[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return ast.literal_eval(data[::-1].decode())


def _short(data: bytes) -> bytes:
    return data[:8].ljust(8)


@pytest.mark.usefixtures("engine")
def test_stores_are_listed_whatever_functions_of_the_users_they_take(rack: Rack) -> None:
    with PersistentDict[Any, Any]("d", serdes=Secret, key_serdes=Secret, hash=_short, shards=2) as d:
        d.update({1: 23, "long" * 300: None})
    assert rack("items", "d").output.splitlines() == [f"{Secret.dumps('long' * 300)!r}\tb'enoN'", "b'1'\tb'32'"]
    assert rack("count", "d").output == "2\n"
    assert json.loads(rack("scan", "d", "--json", "--reverse", "--limit", 1).output) == {
        "key": {"$stored": "MQ=="},
        "value": {"$stored": "MzI="},
    }
    with PersistentSet[Any]("s", serdes=Secret, shards=1) as s:
        s.update([1, Decimal("0.1"), datetime.date(2024, 2, 29)])
    assert {*rack("keys", "s").output.splitlines()} == {"1", "Fraction(1, 10)", "datetime.date(2024, 2, 29)"}
    assert rack("get", "d", "1").errors.startswith("rack get: d.rack was made with the serdes Secret, which is not")


def test_json_lines_leave_nothing_open(rack: Rack) -> None:
    content = {"tab\t": "line\nend", b"\xff": [1, (2,)], 1.5: None, "\x1b[31m": "\x9b", datetime.date(2024, 2, 29): {1}}
    with PersistentDict[Any, Any]("d", shards=2) as d:
        d.update(content)
    lines = rack("items", "d", "--json").output.splitlines()
    assert lines == rack("scan", "d", "--json").output.splitlines()
    assert len(lines) == 5
    assert all(json.loads(line).keys() == {"key", "value"} for line in lines)
    assert '{"key":{"$bytes":"/w=="},"value":[1,{"$tuple":[2]}]}' in lines
    listed = rack("keys", "d", "--json").output
    assert rack("has", "d", "--key", "json", data=listed) == (0, listed, "")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"a\tb\xc3\xa9", b"a\tb\xc3\xa9"),
        (b"\x1b[31m\x07\x7f\n\r\0", b"\\u001b[31m\\u0007\\u007f\\u000a\\u000d\\u0000"),
        ("\x9b31m\u202e\u2028".encode(), b"\\u009b31m\\u202e\\u2028"),
        (b"\x9b31m\xff", b"\\x9b31m\\xff"),
    ],
)
def test_what_a_terminal_could_take_for_a_command_is_escaped(line: bytes, shown: bytes) -> None:
    assert harmless(line) == shown


@pytest.mark.parametrize("command", ["keys s", "scan s", "union s s -q", "dump s -q", "has s", "get d 1"])
def test_no_control_characters_reach_a_terminal(command: str, tmp_path: Path) -> None:
    with PersistentSet[str](tmp_path / "s", serdes="str") as s:
        s.add("\x1b[31m\x9b")
    with PersistentDict[str, str](tmp_path / "d", serdes="str") as d:
        d["1"] = "\x1b[31m\x9b"
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*RACK, *command.split()], cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=theirs
    ) as process:
        process.communicate("\x1b[31m\x9b\n".encode())
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert process.returncode == 0
    assert b"\\u001b[31m\\u009b" in shown
    assert b"\x1b" not in shown
    assert b"\x9b" not in shown


@pytest.mark.parametrize("command", [["get", "no", "1"], ["has", "no", "1"], ["count", "no"], ["keys", "no"]])
def test_who_asks_makes_no_store(rack: Rack, tmp_path: Path, command: list[str]) -> None:
    done = rack(*command)
    assert (done.code, done.output) == (2 if command[0] in ("get", "has") else 1, "")
    assert done.errors == f"rack {command[0]}: there is no store 'no': no no.rack\n"
    assert not [*tmp_path.iterdir()]


def test_who_asks_changes_no_file(rack: Rack, ages: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.glob("ages-*")}

    before = state()
    for command in (["get", "ages", "5"], ["has", "ages", "7"], ["count", "ages"], ["items", "ages"], ["dump", "ages"]):
        assert rack(*command).code == (1 if "7" in command else 0)
    assert {name: found for name, found in state().items() if "lock" not in name} == {
        name: found for name, found in before.items() if "lock" not in name
    }
