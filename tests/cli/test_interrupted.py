"""A command that was long at work says how far it came when it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rack import PersistentSet
from tests.cli.test_ends import elements, pipe_of, running
from tests.support.processes import end_sound as end_sound

LONG = [
    (["dedup", "s", "f"], "interrupted: ... lines read, ... new, 0 seen before; ... of 42.7 MB"),
    (["dedup", "s", "f", "--workers", "2"], "interrupted: ... lines read, ... new, 0 seen before; ... of 42.7 MB"),
    (["copy", "c", "out"], "interrupted: ... of 1,500,000 entries copied; out was not made"),
    (["copy", "c", "out", "--workers", "2"], "interrupted: ... of 1,500,000 entries copied; out was not made"),
    (["union", "c", "c", "-o", "out"], "interrupted: ... of 3,000,000 elements read; out was not made"),
    (["compare", "c", "c"], "interrupted: ... of 3,000,000 entries compared"),
    (["verify", "c"], "interrupted: ... of 2 shards verified"),
    (["repair", "c"], "interrupted: ... entries kept; no store was made"),  # of how many is told once it is known
    (["dump", "c", "out.jsonl"], "interrupted: ... of 1,500,000 entries dumped; out.jsonl was not written"),
    (
        ["load", "out", "f", "--format", "tsv", "--no-header"],
        "interrupted: ... lines read; ... of 42.7 MB; out was not made",
    ),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("large")
    (directory / "f").write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 60) for number in range(630_000)))
    with PersistentSet[bytes](directory / "c", serdes="bytes", shards=2) as store:
        store.update(b"%d" % number for number in range(1_500_000))
    return directory


def interrupt_late(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """End a command after more than a second: of which it spends the most stopped, as it would be done before."""
    while True:
        line = pipe_of(process.stderr).readline()
        assert line, "it has ended"
        if b" 0 lines" not in line:  # about its progress: it is at work
            break
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.1)
    os.kill(process.pid, signum)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(10) == -signum


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("command", "said"), LONG, ids=[" ".join(command) for command, _ in LONG])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_was_long_at_work_says_how_far_it_came(
    command: list[str], said: str, large: Path, signum: signal.Signals
) -> None:
    before = {*large.iterdir()}
    with running(*command, "--progress", "0.001", cwd=large, stdout=subprocess.DEVNULL) as process:
        interrupt_late(process, signum)
        line = pipe_of(process.stderr).read().decode().splitlines(keepends=True)[-1]
    pattern = f"rack {command[0]}: {said}\n".split("...")
    for part in pattern:
        assert part in line, (pattern, line)
        line = line[line.index(part) + len(part) :]
    assert line == ""
    if command[0] == "dedup":
        for file in large.glob("s[.-]*"):
            file.unlink()
    assert {*large.iterdir()} == before


@pytest.mark.parametrize("workers", [1, 2])
def test_what_it_says_is_what_it_has_stored_and_written(workers: int, large: Path, tmp_path: Path) -> None:
    args = ["dedup", tmp_path / "s", "f", "--workers", workers, "--progress", "0.001"]
    with open(tmp_path / "out", "wb") as out, running(*args, cwd=large, stdout=out) as process:
        interrupt_late(process, signal.SIGINT)
        line = pipe_of(process.stderr).read().decode().splitlines()[-1]
    new = int(line.split(" read, ")[1].split(" new")[0].replace(",", ""))
    written = (tmp_path / "out").read_bytes().splitlines()
    assert new == len(written) > 0
    assert sorted(written) == sorted(elements(tmp_path / "s"))
    assert workers > 1 or written == sorted(written, key=lambda line: int(line.split()[0]))


def test_quiet_and_short_ones_say_nothing(large: Path, tmp_path: Path) -> None:
    for args, line in ((["-q"], b"a\n"), ([], b"b\n")):
        started = time.monotonic()
        with running("dedup", tmp_path / "s", *args, stdin=subprocess.PIPE) as process:
            pipe_of(process.stdin).write(line)
            assert pipe_of(process.stdout).read(2) == line
            time.sleep(1.2 if args else 0)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(10) == -signal.SIGINT
            if args or time.monotonic() - started < 0.9:
                assert pipe_of(process.stderr).read() == b""
