"""``rack union``, ``intersect``, ``diff``, ``symdiff`` and ``compare``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli import main
from tests.support.commands import ENVIRONMENT

A = {b"%d" % number for number in range(3000)} | {b"", b"long" * 500, b"\xff\xfe"}
B = {b"%d" % number for number in range(1000, 4000)} | {b"long" * 500}
C = {b"%d" % number for number in range(2000, 2100)}
EXPECTED: list[tuple[list[str], set[bytes]]] = [
    (["union", "a", "b"], A | B),
    (["union", "a", "b", "c.rack"], A | B | C),
    (["intersect", "a", "b", "c"], A & B & C),
    (["diff", "a", "b", "c"], A - B - C),
    (["diff", "b", "a"], B - A),
    (["symdiff", "a", "b"], A ^ B),
]


def run(directory: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "rack", *args]
    return subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, check=False, timeout=60)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, content, options in (("a", A, {}), ("b", B, {}), ("c", C, {"shards": 3, "engine": "sqlite3"})):
        with PersistentSet[bytes](tmp_path / name, serdes="bytes", **{"shards": 4, **options}) as store:  # type: ignore[arg-type]
            store.update(content)
    return tmp_path


@pytest.mark.parametrize(("args", "expected"), EXPECTED)
def test_elements_are_lines_in_order_each_once(directory: Path, args: list[str], expected: set[bytes]) -> None:
    done = run(directory, *args)
    assert (done.returncode, done.stdout) == (0, b"".join(line + b"\n" for line in sorted(expected)))
    assert done.stderr.decode() == f"rack {args[0]}: {len(expected):,} elements\n"
    done = run(directory, *args, "-0", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"".join(e + b"\0" for e in sorted(expected)), b"")


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize(("args", "expected"), EXPECTED[1:])
def test_o_makes_a_store_and_replaces_none(
    directory: Path, args: list[str], expected: set[bytes], workers: str
) -> None:
    done = run(directory, *args, "-o", "made", "--workers", workers)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == f"rack {args[0]}: {len(expected):,} elements in made\n"
    with PersistentSet[bytes](directory / "made", serdes="bytes", shards=4) as made:
        assert set(made) == expected
    assert_sound(made)
    done = run(directory, "union", "c", "c", "-o", "made.rack")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    with made:
        assert len(made) == len(expected)


def test_other_elements_are_literals(directory: Path) -> None:
    with PersistentSet[Any](directory / "x") as x:
        x.update([1, "a", ("t", 2)])
    done = run(directory, "union", "x", "x", "-q")
    assert sorted(done.stdout.splitlines()) == [b"'a'", b"('t', 2)", b"1"]


def test_what_is_wrong_is_one_line_and_an_exit_code(directory: Path) -> None:
    with PersistentDict(directory / "d") as d:
        d["a"] = 1
    for args, code, message in (
        (["union", "a"], 2, "Missing argument"),
        (["symdiff", "a", "b", "c"], 2, "unexpected extra argument"),
        (["union", "a", "b", "--workers", "2"], 2, "--workers is for -o"),
        (["union", "a", "nothing"], 1, "there is no store 'nothing'"),
        (["union", "a", "d"], 1, "d is a dict"),
        (["compare", "a", "nothing"], 2, "there is no store 'nothing'"),
        (["compare", "a", "d"], 2, "a is a set and d a dict"),
        (["compare", "a"], 2, "Missing argument"),
    ):
        done = run(directory, *args)
        assert (done.returncode, done.stdout) == (code, b""), args
        assert message in done.stderr.decode(), args
    assert not list(directory.glob("*anonymous*"))


def test_compare_tells_how_two_sets_differ(directory: Path) -> None:
    for args, expected in (
        (["a", "b"], (len(A - B), len(B - A), len(A & B))),
        (["b", "a", "--workers", "3"], (len(B - A), len(A - B), len(A & B))),
        (["a", "c"], (len(A - C), len(C - A), len(A & C))),
        (["c", "a.rack"], (len(C - A), len(A - C), len(A & C))),
        (["a", "a"], (0, 0, len(A))),
    ):
        done = run(directory, "compare", *args)
        assert done.returncode == int(expected[:2] != (0, 0))
        assert done.stdout.decode() == "only in A\t{}\nonly in B\t{}\nin both\t{}\n".format(*expected)
        assert done.stderr == b""
        done = run(directory, "compare", *args, "-q")
        assert (done.returncode, done.stdout) == (int(expected[:2] != (0, 0)), b"")


@pytest.mark.parametrize("options", [{}, {"shards": 2}, {"serdes": "pickle"}, {"engine": "sqlite3"}])
def test_compare_tells_how_two_dicts_differ(tmp_path: Path, options: dict[str, Any]) -> None:
    mine: dict[int, Any] = {number: number for number in range(5000)}
    theirs = {number: number if number % 3 else float(number) for number in range(1, 5001)}
    theirs[7] = [7]
    with PersistentDict[int, Any](tmp_path / "a") as a, PersistentDict[int, Any](tmp_path / "b", **options) as b:
        a.update(mine)
        b.update(theirs)
    done = run(tmp_path, "compare", "a", "b")
    assert done.returncode == 1
    assert done.stdout.decode() == "only in A\t1\nonly in B\t1\nin both\t4999\nwith different values\t1\n"
    with b:
        b[7] = 7.0
        b[0] = 0
        del b[5000]
    done = run(tmp_path, "compare", "a", "b", "--workers", "2")
    assert (done.returncode, done.stdout.decode().split("\t")[-1]) == (0, "0\n")


@pytest.mark.parametrize(("shards", "workers"), [(4, "1"), (3, "2")])
def test_sets_of_text_and_of_bytes_are_sets_of_lines(
    directory: Path, shards: int, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    texts = {"0", "1", "é", "new"}
    with PersistentSet[str](directory / "t", serdes="str", shards=shards) as t:
        t.update(texts)
    lines = {text.encode() for text in texts}
    for args, expected in (
        (["union", "t", "a"], lines | A),
        (["intersect", "a", "t"], lines & A),
        (["diff", "t", "a", "b"], lines - A),
        (["symdiff", "t", "a"], lines ^ A),
        (["union", "t", "t"], lines),
    ):
        name = f"out-{args[0]}-{args[-1]}"
        assert main([*args, "-o", name, "--workers", workers, "-q"]) == 0
        with PersistentSet[Any](directory / name) as made:
            elements = set(made)
            assert made.check() == len(expected)
        assert elements == (texts if args[-1] == "t" and args[1] == "t" else expected)
    done = run(directory, "union", "t", "a", "-q")
    assert (done.returncode, done.stdout) == (0, b"".join(line + b"\n" for line in sorted(lines | A)))
