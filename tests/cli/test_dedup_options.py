"""``rack dedup``: its options, and what it says when something is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rack import PersistentDict, PersistentSet
from tests.cli.test_dedup import dedup, elements, run, start
from tests.support.processes import end_sound as end_sound

# Options


def test_count_writes_three_counts_and_stores_the_lines(tmp_path: Path) -> None:
    done = run("dedup", tmp_path / "s", "--count", input=b"a\nb\na\n")
    assert done.stdout == b"read\t3\nnew\t2\nseen\t1\n"
    assert dedup(tmp_path / "s", "--count", data=b"a\nc") == b"read\t2\nnew\t1\nseen\t1\n"
    assert elements(tmp_path / "s") == {b"a", b"b", b"c"}


def test_the_summary_is_one_line_on_standard_error_unless_quiet(tmp_path: Path) -> None:
    summary = run("dedup", tmp_path / "s", input=b"a\nb\na\n").stderr.decode()
    assert summary.startswith("rack dedup: 3 lines read, 2 new, 1 seen before; 6 bytes in ")
    assert summary.count("\n") == 1
    assert run("dedup", tmp_path / "s", "--quiet", input=b"a\n").stderr == b""
    assert run("dedup", tmp_path / "s", "-q", "--workers", "2", input=b"a\n").stderr == b""


def test_shards_are_for_a_new_store_and_must_not_contradict_an_old_one(tmp_path: Path) -> None:
    dedup(tmp_path / "s", "--shards", 3, data=b"a\n")
    assert len([*tmp_path.glob("s-*.lmdb")]) == 3
    assert dedup(tmp_path / "s", data=b"a\n") == b""
    error = run("dedup", tmp_path / "s", "--shards", "5", expect=1, input=b"b\n").stderr.decode()
    assert "3" in error
    assert "5" in error
    assert error.count("\n") == 1


def test_the_manifest_is_taken_for_the_store(tmp_path: Path) -> None:
    dedup(tmp_path / "s", data=b"a\n")
    assert dedup(tmp_path / "s.rack", data=b"a\nb\n") == b"b\n"
    assert not [*tmp_path.glob("s.rack.rack")]
    dedup(tmp_path / "new.rack", data=b"a\n")
    assert elements(tmp_path / "new.rack") == {b"a"}


# Errors


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path, workers: int) -> None:
    (tmp_path / "good").write_bytes(b"a\n")
    done = run(
        *("dedup", tmp_path / "s", tmp_path / "missing", tmp_path / "good", tmp_path, "--workers", workers), expect=1
    )
    assert done.stdout == b"a\n"
    errors = done.stderr.decode().splitlines()
    assert errors[0] == f"rack dedup: {tmp_path / 'missing'}: No such file or directory"
    assert errors[1] == f"rack dedup: {tmp_path}: Is a directory"
    assert "1 line read" in errors[2]
    assert len(errors) == 3


def test_a_store_that_is_no_set_of_bytes_is_one_clear_error(tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "d") as words:
        words["a"] = 1
    with PersistentSet[str](tmp_path / "s") as seen:
        seen.add("a")
    for name in "ds":
        done = run("dedup", tmp_path / name, expect=1, input=b"a\n")
        assert done.stdout == b""
        assert done.stderr.startswith(b"rack dedup: ")
        assert done.stderr.count(b"\n") == 1
        assert str(tmp_path / name).encode() in done.stderr
    with PersistentDict[str, int](tmp_path / "d") as words:
        assert {**words} == {"a": 1}


def test_a_store_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    done = run("dedup", tmp_path / "no" / "s", expect=1, input=b"a\n")
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"no" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        *([], [""], ["s/"], ["s", "--nonsense"], ["s", "--workers", "0"]),
        *(["s", "--shards", "x"], ["s", "--shards", "0"], ["s", "--shards", "1000000000"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    done = run("dedup", *args, expect=2, cwd=tmp_path)
    assert b"Error: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_an_output_that_is_also_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\n")
    with open(tmp_path / "f", "ab") as out:
        process = start("dedup", tmp_path / "s", tmp_path / "f", stdout=out, stderr=subprocess.PIPE)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"is the output as well" in errors
    assert (tmp_path / "f").read_bytes() == b"a\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_output_is_one_clear_error(tmp_path: Path, workers: int) -> None:
    with open("/dev/full", "wb") as full:
        pipe = subprocess.PIPE
        process = start("dedup", tmp_path / "s", "--workers", workers, stdin=pipe, stdout=full, stderr=pipe)
        _, errors = process.communicate(b"a\n", timeout=30)
    assert process.returncode == 1
    assert errors == b"rack dedup: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_of_text_takes_lines_that_are_text(tmp_path: Path, workers: int) -> None:
    with PersistentSet[str](tmp_path / "s", serdes="str", shards=2) as s:
        s.update(["a", "\udc80"])
    (tmp_path / "f").write_bytes("a\né\nb\n".encode() + b"\xed\xb2\x80\n")
    out = dedup(tmp_path / "s", tmp_path / "f", "--workers", workers)
    assert sorted(out.splitlines()) == [b"b", "é".encode()]
    done = run("dedup", tmp_path / "s", "--workers", workers, input=b"c\n\xff\xfe\nd\n", expect=1)
    assert done.stderr.endswith(b"holds text (serdes str), and a line is not UTF-8: b'\\xff\\xfe'\n")
    assert done.stderr.count(b"\n") == 1
    with s:
        assert set(s) == {"a", "\udc80", "é", "b"}
        assert s.check() == 4
