"""Outputs that cannot be written, and exit codes: 1 is never an error where it is an answer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from rack import PersistentDict, PersistentSet
from rack.cli.app import app
from rack.cli.failure import Verdict, failing
from rack.cli.output import say
from tests.cli.test_ends import ENVIRONMENT
from tests.cli.test_messages import VERDICTS as ANSWERING
from tests.support.commands import RACK

#: Commands whose exit code 1 is an answer; and commands that write to standard output. The answers to these.
VERDICTS = {
    "compare a a": 0,
    "compare a b": 1,
    "compare a b --workers 2": 1,
    "verify a": 0,
    "verify a --json": 0,
    "verify damaged": 1,
    "repair a": 0,
    "repair damaged --json": 1,
}
#: Commands of single keys.
SINGLE = {"get d 1": 0, "get d 1 --value json": 0, "incr d 1": 0, "del c --prefix 1": 0}
OTHERS = {
    "dedup s f": 0,
    "dedup s f --workers 2": 0,
    "dedup s f --count": 0,
    "scan a": 0,
    "union a b": 0,
    "intersect a b": 0,
    "diff b a": 0,
    "symdiff a b": 0,
    "scan a --json": 0,
    "keys a": 0,
    "items d": 0,
    "count a": 0,
    "dump a": 0,
    "dump a --format csv": 0,
    "stat a --prometheus": 0,
    "demo --dir demo --megabytes 0.2": 0,
}
HELPS = {"--help": 0, "--version": 0, "dedup --help": 0, "verify --help": 0}  # the second is of a Verdict
ALL = {**VERDICTS, **SINGLE, **OTHERS, **HELPS}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, numbers in (("a", range(300)), ("b", range(200, 500)), ("damaged", range(300))):
        with PersistentSet[bytes](tmp_path / name, serdes="bytes", shards=2) as store:
            store.update(b"%d" % number for number in numbers)
    min(tmp_path.glob("damaged-0001.*")).unlink()
    with PersistentDict[int, int](tmp_path / "d", shards=2) as numbers:
        numbers[1] = 2
    with PersistentSet[str](tmp_path / "c", serdes="str", shards=2) as texts:
        texts.update(["1", "11", "2"])
    (tmp_path / "f").write_bytes(b"1\n2\n3\n")
    return tmp_path


def run(command: str, directory: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, **options}
    words = [*RACK, *command.split()]
    return subprocess.run(words, cwd=directory, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False, **options)


@contextmanager
def nobody_reads() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def trouble(command: str) -> int:
    return 2 if command.split()[0] in ANSWERING else 1


def test_commands_whose_exit_code_is_an_answer_are_those() -> None:
    verdicts = {name for name, command in app.commands.items() if isinstance(command, Verdict)}
    assert verdicts == {*ANSWERING}
    assert {command.split()[0] for command in VERDICTS} <= verdicts
    for name in verdicts:
        assert "2 wrong usage or any error" in (app.commands[name].epilog or "")


@pytest.mark.one_in(2)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ALL)
def test_a_full_output_is_one_clear_error_and_no_answer(command: str, directory: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run(command, directory, stdout=full)
    assert done.returncode == trouble(command)
    words = command.split()
    name = f"rack {words[0]}" if not words[0].startswith("-") else "rack"
    message = "cannot write to standard output: No space left on device"
    expected = f"{name}: No space left on device" if words[-1] in ("--help", "--version") else f"{name}: {message}"
    assert done.stderr.decode() == expected + "\n"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("command", ALL)
def test_a_reader_that_has_gone_ends_it_as_it_ends_cat(command: str, directory: Path) -> None:
    with nobody_reads() as output:
        done = run(command, directory, stdout=output)
    assert done.returncode == -signal.SIGPIPE  # which a shell shows as 141
    assert done.stderr == b""
    assert not [*directory.glob("*anonymous*")]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("command", [*VERDICTS, *OTHERS])
def test_an_output_that_is_closed_is_one_clear_error_and_no_answer(command: str, directory: Path) -> None:
    done = run(command, directory, stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == trouble(command)
    assert done.stderr.decode() == f"rack {command.split()[0]}: standard output is closed\n"


@pytest.mark.parametrize("command", VERDICTS)
def test_who_wants_only_the_exit_code_gets_it_whatever_the_output_is(command: str, directory: Path) -> None:
    with nobody_reads() as output:
        assert run(f"{command} --quiet", directory, stdout=output).returncode == VERDICTS[command]
    for path in directory.glob("*-repaired*"):
        path.unlink()
    done = run(f"{command} --quiet", directory, stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == VERDICTS[command]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("command", [*VERDICTS, *OTHERS])
def test_the_answer_does_not_depend_on_whether_messages_can_be_read(command: str, directory: Path) -> None:
    expected = run(command, directory)
    assert expected.returncode == ALL[command], expected.stderr
    for where in ("full", "gone", "closed"):
        for path in (*directory.glob("*-repaired*"), *directory.glob("s[.-]*")):
            path.unlink()
        shutil.rmtree(directory / "demo", ignore_errors=True)
        if where == "full":
            with open("/dev/full", "wb") as full:
                done = run(command, directory, stderr=full)
        elif where == "gone":
            with nobody_reads() as pipe:
                done = run(command, directory, stderr=pipe)
        else:
            done = run(command, directory, stderr=None, preexec_fn=lambda: os.close(2))
        assert done.returncode == expected.returncode, where
        if command.split()[0] not in ("demo", "repair"):
            assert sorted(done.stdout.splitlines()) == sorted(expected.stdout.splitlines()), where


@pytest.mark.parametrize("command", ["verify", "verify a --nonsense", "nonsense", "scan nothing"])
def test_errors_that_nobody_can_read_have_their_exit_code(command: str, directory: Path) -> None:
    expected = run(command, directory).returncode
    with nobody_reads() as pipe:
        assert run(command, directory, stderr=pipe).returncode == expected
    with open("/dev/full", "wb") as full:
        assert run(command, directory, stderr=full).returncode == expected


def test_what_nobody_has_expected_is_no_answer_either(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as end, failing(Verdict.trouble):
        raise RuntimeError("a bug")
    assert end.value.exit_code == 2
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_line_may_have_a_path_in_it_that_is_no_text(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    say(os.fsdecode(b"\xff-store is sound"))
    assert capfdbinary.readouterr().out == b"\xff-store is sound\n"
