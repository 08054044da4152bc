"""How far a command is: a line every so many seconds where it is asked for, and a bar on a terminal only."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentSet
from rack.cli.display import Counter, Wish
from rack.cli.progress import Meter
from tests.cli.test_ends import ENVIRONMENT
from tests.cli.test_help import on_terminal
from tests.support.commands import RACK
from tests.support.processes import end_sound as end_sound


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("progress")
    for name, numbers in (("a", range(40_000)), ("b", range(20_000, 60_000))):
        with PersistentSet[bytes](directory / name, serdes="bytes", shards=3) as store:
            store.update(b"%d" % number for number in numbers)
    (directory / "f").write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 60) for number in range(20_000)))
    return directory


def run(command: str, directory: Path, **options: Any) -> tuple[list[str], str]:
    """Return the lines on standard error, and all of standard output."""
    done = subprocess.run(
        [*RACK, *command.split()],
        cwd=directory,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stderr.decode().splitlines(), done.stdout.decode()


LINES = "[0-9,]+ lines? read, [0-9,]+ new, [0-9,]+ seen before; [0-9.]+ (bytes|kB|MB) of 1.3 MB after [0-9] s"
COMMANDS = {
    "dedup s f": LINES,
    "dedup s f --workers 2 --count": LINES,
    "union a b": "[0-9,]+ of 80,000 elements read after [0-9] s",
    "diff a b -o out": "[0-9,]+ of 80,000 elements read after [0-9] s",
    "diff a b -o out --workers 2": "[0-9,]+ of 80,000 elements read after [0-9] s",
    "compare a b": "[0-9,]+ of 80,000 entries compared after [0-9] s",
    "copy a out": "[0-9,]+ of 40,000 entries copied after [0-9] s",
    "copy a out --workers 2 --shards 2": "[0-9,]+ of 40,000 entries copied after [0-9] s",
    "backup a out": "[0-3] of 3 shards backed up after [0-9] s",
    "verify a": "[0-3] of 3 shards verified after [0-9] s",
    "verify a --workers 2": "[0-3] of 3 shards verified after [0-9] s",
    "compact a": "[0-9,]+ of 40,000 entries written after [0-9] s",
    "reshard a 4": "[0-9,]+ of 40,000 entries written after [0-9] s",
    "dump a out.jsonl": "[0-9,]+ of 40,000 entries dumped after [0-9] s",
    "load out f --format tsv --no-header": "[0-9,]+ lines? read; [0-9.]+ (bytes|kB|MB) of 1.3 MB after [0-9] s",
    "repair a": "(?:[0-9,]+ of [1-9][0-9,]*|0) entries kept after [0-9] s",
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_lines_of_progress_come_where_they_are_asked_for(command: str, directory: Path) -> None:
    name = f"rack {command.split()[0]}: "
    for options in ("", "--progress 1000", "--progress 0.000001 -q" if "compare" not in command else "--progress 99"):
        plain, _ = run(f"{command} {options}", directory)
        clear(directory)
        if "-q" not in options:
            assert len(plain) <= 1, plain  # the summary
            assert not any("after" in line for line in plain)
    lines, _ = run(f"{command} --progress 0.000001", directory)
    clear(directory)
    pattern = re.compile(re.escape(name) + COMMANDS[command])
    told = [line for line in lines if pattern.fullmatch(line)]
    assert len(told) >= 2, lines
    assert len(lines) - len(told) <= 1, lines
    assert not any("\x1b" in line for line in lines)


def clear(directory: Path) -> None:
    for pattern in ("s[.-]*", "out*", "*-repaired*"):
        for path in directory.glob(pattern):
            path.unlink()


def test_lines_come_no_more_often_than_they_are_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    with Counter(Wish(every=1000), "entry", "copied") as show:
        for number in range(1000):
            show(number, 1000)
    with Meter(Wish()) as meter:
        meter.add(1, 1, 1)
    assert capfd.readouterr().err == ""
    with Counter(Wish(every=1e-9), "entry", "copied") as show:
        show(1, 1)
        show(0.5, 2345)
    first, second = capfd.readouterr().err.splitlines()
    assert first == "rack: 1 of 1 entry copied after 0 s"
    assert second == "rack: 0 of 2,345 entries copied after 0 s"


def test_on_a_terminal_they_are_there_in_place_of_the_bar(directory: Path, tmp_path: Path) -> None:
    shown, _ = on_terminal("copy", str(directory / "a"), str(tmp_path / "copy"), "--progress", "0.000001")
    assert b"\x1b" not in shown
    assert b"of 40,000 entries copied after" in shown


@pytest.mark.parametrize("seconds", ["0", "-1", "x"])
def test_it_takes_a_number_of_seconds(seconds: str, directory: Path) -> None:
    done = subprocess.run(
        [*RACK, "verify", "a", "--progress", seconds], cwd=directory, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"Invalid value for '--progress'" in done.stderr


def test_what_has_not_begun_is_not_of_nothing() -> None:
    assert Counter(Wish(True, None), "entry", "written").so_far() == "0 entries written"
