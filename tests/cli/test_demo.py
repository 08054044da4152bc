"""``rack demo``: it counts right, notices when it did not, and what it says to try next works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rack
from rack import PersistentDict, PersistentSet

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli import demo
from rack.cli.failure import Failure
from tests.support.commands import ENVIRONMENT
from tests.support.processes import end_sound as end_sound


def run(*args: object, tmp: Path | None = None) -> str:
    environment = ENVIRONMENT if tmp is None else {**ENVIRONMENT, "TMPDIR": str(tmp)}
    command = [sys.executable, "-m", "rack", "demo", "--megabytes", "1", *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_the_stores_hold_what_python_counts_and_a_rerun_starts_anew(tmp_path: Path) -> None:
    first, second = run("--dir", tmp_path / "new" / "d"), run("--dir", tmp_path / "new" / "d", "--workers", "2")
    assert "4 processes" in first
    assert "2 processes" in second
    paths = demo._source_files(1e6)
    assert len(paths) > 10
    assert sum(path.stat().st_size for path in paths) <= 1e6
    lines = {line for path in paths for line in path.read_bytes().splitlines()}
    words = Counter(re.findall(r"[A-Za-z_]\w+", "".join(path.read_text("utf-8") + "\n" for path in paths)))
    with PersistentSet[bytes](tmp_path / "new" / "d" / "demo-lines") as seen:
        # splitlines() takes a form feed for no end of a line in bytes, but a carriage return for one.
        assert {line for in_store in seen for line in in_store.splitlines() or [b""]} == lines
        assert seen.check() == len(seen)
    with PersistentDict[str, int](tmp_path / "new" / "d" / "demo-words") as counts:
        assert {**counts} == words
        assert counts.check() == len(counts)
    for word, count in words.most_common(3):
        assert re.search(rf"{word}\W+{count:,}\b", second)


def test_it_is_kept_in_a_new_directory_whose_name_is_printed(tmp_path: Path) -> None:
    output = run(tmp=tmp_path)
    (made,) = tmp_path.glob("rack-demo-*")
    assert f"The stores are in {made}" in output
    assert (made / "demo-lines.rack").exists()
    assert (made / "demo-words.rack").exists()


def test_what_it_says_to_try_next_works(tmp_path: Path) -> None:
    place = tmp_path / "with space & 'quote'"
    output = run("--dir", place)
    with PersistentDict[str, int](place / "demo-words", flag="r") as counts:
        count, selves = len(counts), counts["self"]
    commands = [line.strip() for line in output.split("To try next")[1].splitlines()[1:] if line.strip()]
    assert [line.startswith("#") for line in commands] == [True, False] * 6
    results = []
    for command in commands[1::2]:
        done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, timeout=30, check=True)
        results.append(done.stdout.decode())
    assert re.fullmatch(r"read\t(\d+)\nnew\t0\nseen\t\1\n", results[0])
    assert results[1] == "a line of my own\n"
    assert results[2] == f"{selves}\n"
    assert f"{count:,}" in results[3]
    assert results[4] == f"{count} {selves}\n"
    assert not list(place.iterdir())


def test_a_difference_from_python_is_an_error_that_says_what_is_wrong(tmp_path: Path) -> None:
    paths = demo._source_files(1e5)
    names = str(tmp_path / "demo-lines"), str(tmp_path / "demo-words")
    total = demo._fill(paths, 2, *names)
    lines, words = demo._in_memory(paths)
    demo._compare(lines, words, total, *names)
    total.new += 1
    with pytest.raises(Failure, match="new to some process"):
        demo._compare(lines, words, total, *names)
    total.new -= 1
    with PersistentDict[str, int](names[1]) as counts:
        counts.incr("self")
        del counts["def"]
    with pytest.raises(Failure, match="demo-words is wrong: 2 words"):
        demo._compare(lines, words, total, *names)
    with PersistentSet[bytes](names[0]) as seen:
        seen.add(b"no line of any file")
    with pytest.raises(Failure, match="demo-lines is wrong: 1 line "):
        demo._compare(lines, words, total, *names)


def test_a_place_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "rack", "demo", "--dir", str(tmp_path / "file" / "d")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"file" in done.stderr


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_it_draws_how_fast_it_is_and_leaves_no_other_stores(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"picture.{suffix}"
    output = run("--dir", tmp_path / "d", "--plot", picture, "--workers", "3")
    assert f"is drawn in {picture}." in output
    assert picture.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert [name.rpartition("/")[2] for name in rack.stores(tmp_path / "d")] == ["demo-lines", "demo-words"]
