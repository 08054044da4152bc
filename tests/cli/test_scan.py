"""``rack scan``: a store, or a range of it, as lines in order."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.shard import ENGINES
from tests.cli.test_dedup import dedup, run, start
from tests.support.processes import end_sound as end_sound

pytest.importorskip("click")
pytest.importorskip("rich")


def scan(*args: object) -> bytes:
    return run("scan", *args).stdout


@pytest.fixture(params=ENGINES)
def words(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with PersistentDict[str, int](tmp_path / "words", key_serdes="str", shards=3, engine=request.param) as d:
        d.update({"pear": 4, "apple": 5, "plum": 1, "fig": 3, "é": 2})
    return tmp_path / "words"


def test_a_dict_is_lines_of_key_tab_value_in_order(words: Path) -> None:
    assert scan(words) == "apple\t5\nfig\t3\npear\t4\nplum\t1\né\t2\n".encode()
    assert scan(f"{words}.rack", "--null", "--limit", 2) == b"apple\t5\0fig\t3\0"


def test_ranges_prefixes_and_limits_are_those_of_scan(words: Path) -> None:
    assert scan(words, "--prefix", "p") == b"pear\t4\nplum\t1\n"
    assert scan(words, "--start", "fig", "--stop", "plum") == b"fig\t3\npear\t4\n"
    assert scan(words, "--start", "g", "--prefix", "p", "--reverse", "--limit", 1) == b"plum\t1\n"
    assert scan(words, "--stop", "q", "--reverse", "--limit", 2) == b"plum\t1\npear\t4\n"
    assert scan(words, "--prefix", "é") == "é\t2\n".encode()
    assert scan(words, "--limit", 0) == scan(words, "--start", "x", "--stop", "a") == b""


def test_what_rack_dedup_has_seen_comes_out_as_it_went_in(tmp_path: Path) -> None:
    lines = [b"b", b"\xff\xfe", b"", b"a\tb", b"a" * 70_000]
    dedup(tmp_path / "s", data=b"\n".join(lines) + b"\n")
    assert scan(tmp_path / "s") == b"\n".join(sorted(lines)) + b"\n"
    assert run("scan", tmp_path / "s", "--prefix", os.fsdecode(b"\xff")).stdout == b"\xff\xfe\n"


def test_ordered_keys_are_written_and_given_as_python_literals(tmp_path: Path) -> None:
    keys: list[Any] = [None, -1.5, 0, 7, 10**30, b"\xff\n", "5", "a\nb", ("ann", 3), ("ann", 8, None), ("bob", ())]
    with PersistentSet[Any](tmp_path / "s", serdes="ordered") as s:
        s.update(keys)
    store = tmp_path / "s"
    assert [ast.literal_eval(line) for line in scan(store).decode().splitlines()] == keys
    assert scan(store, "--start", "0", "--stop", "8") == b"0\n7\n"
    assert scan(store, "--start", "'5'", "--stop", "'6'") == b"'5'\n"
    assert scan(store, "--prefix", "('ann',)") == b"('ann', 3)\n('ann', 8, None)\n"
    assert scan(store, "--prefix", "('ann', 8)") == b"('ann', 8, None)\n"


@pytest.mark.parametrize(
    ("serdes", "value", "written"),
    [
        ("marshal", [1, "x\n"], b"[1, 'x\\n']"),
        ("json", {"a": [None, "é"]}, '{"a":[null,"é"]}'.encode()),
        ("str", "é", "é".encode()),
        ("bytes", b"\xff", b"\xff"),
        ("pickle", {1}, b"{1}"),
    ],
)
def test_values_are_written_as_their_serdes_has_them(tmp_path: Path, serdes: str, value: Any, written: bytes) -> None:
    with PersistentDict[str, Any](tmp_path / "d", serdes=serdes, key_serdes="str") as d:
        d["k"] = value
    assert scan(tmp_path / "d") == b"k\t" + written + b"\n"


def test_errors_are_one_line(tmp_path: Path, words: Path) -> None:
    with PersistentSet[int](tmp_path / "plain") as plain:
        plain.add(1)
    for store, message in [("missing", b"missing.rack"), ("plain", b"--serdes ordered")]:
        done = run("scan", tmp_path / store, "--prefix", "1", expect=1)
        assert done.stderr.startswith(b"rack scan: ")
        assert done.stderr.count(b"\n") == 1
        assert message in done.stderr
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("missing")]


@pytest.mark.parametrize(
    "args",
    [
        *(["--start", "no literal"], ["--start", "open("], ["--stop", "[1]"], ["--prefix", "{1}"], ["--prefix", "5"]),
        *(["--limit", "-1"], ["--limit", "x"], ["--nonsense"], ["more"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    with PersistentSet[Any](tmp_path / "s", serdes="ordered") as s:
        s.add(1)
    done = run("scan", tmp_path / "s", *args, expect=2)
    assert b"Error: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    with PersistentSet[str](tmp_path / "s", serdes="str") as s:
        s.update(f"{number:08d}" for number in range(100_000))
    process = start("scan", tmp_path / "s", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"00000000\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), errors) == (-13, b"")


def test_a_store_that_is_open_elsewhere_is_read_over_many_blocks(tmp_path: Path) -> None:
    with PersistentSet[str](tmp_path / "s", serdes="str") as s:
        s.update(f"{number:08d}" for number in range(100_000))
        lines = scan(tmp_path / "s", "--reverse").split()
        assert lines == [b"%08d" % number for number in range(99_999, -1, -1)]


@pytest.mark.parametrize("serdes", ["marshal", "json", "ordered"])
def test_ints_are_written_whatever_their_size(tmp_path: Path, serdes: str) -> None:
    huge = 10**5000 + 1
    text = b"1" + b"0" * 4999 + b"1"
    with PersistentDict[int, int](tmp_path / "d", serdes=serdes, key_serdes="ordered") as d:
        d.update({huge: -huge, 5: 6})
    assert scan(tmp_path / "d") == b"5\t6\n" + text + b"\t-" + text + b"\n"
    assert scan(tmp_path / "d", "--start", text.decode(), "--stop", text.decode() + "0") == text + b"\t-" + text + b"\n"
    with PersistentDict[int, int](tmp_path / "e", serdes="json", shards=3) as e:
        e.update({huge: -huge, 5: 6})
    assert b"with different values\t0" in run("compare", tmp_path / "d", tmp_path / "e").stdout
    run("copy", tmp_path / "d", tmp_path / "f", "--serdes", "json")
