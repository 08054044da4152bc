"""How ``rack dedup`` ends before its input does: Ctrl-C, closed pipes, killed processes, closed descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from rack import PersistentSet
from rack.cli.signals import Guard, Stopped
from tests.support import commands
from tests.support.processes import end_sound as end_sound

pytest.importorskip("click")
pytest.importorskip("rich")

# A file that is not closed is one that had just been opened when a signal came, to this process or to a worker.
ENVIRONMENT = {**commands.ENVIRONMENT, "PYTHONWARNINGS": "error,ignore::ResourceWarning"}
WORKERS = pytest.mark.parametrize("workers", [1, 3])


@contextmanager
def running(*args: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, of which nothing may be left at the end of the body."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # In the same session: else Ctrl-Z would not stop it, as there would be nobody to continue it.
    options = {"process_group": 0, "bufsize": 0, "env": ENVIRONMENT, **pipes, **options}
    with subprocess.Popen([*commands.RACK, *map(str, args)], **options) as process:
        try:
            yield process
            process.wait(30)
            deadline = time.monotonic() + 10
            while members(process.pid):
                assert time.monotonic() < deadline, "processes are left"
                time.sleep(0.02)
        finally:
            if members(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def elements(store: Path) -> set[bytes]:
    with PersistentSet[bytes](store, serdes="bytes", flag="r") as seen:
        assert seen.check() == len(seen)
        return {*seen}


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """The distinct lines of the file ``tmp_path / "f"``, about 13 MB: a second of work, and several blocks."""
    distinct = [b"%d %s" % (number, b"x" * 25) for number in range(400_000)]
    (tmp_path / "f").write_bytes(b"\n".join(distinct) + b"\n")
    return distinct


@pytest.mark.one_in(2)
@WORKERS
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everybody", [False, True], ids=["parent", "group"])
def test_a_signal_ends_it_quietly_and_loses_and_doubles_no_line(
    tmp_path: Path, lines: list[bytes], workers: int, signum: signal.Signals, everybody: bool
) -> None:
    args = ("dedup", tmp_path / "s", tmp_path / "f", "--workers", workers, "-q")
    with open(tmp_path / "out", "wb") as out:
        with running(*args, stdout=out) as process:
            while not os.path.getsize(tmp_path / "out"):
                time.sleep(0.01)
            (os.killpg if everybody else os.kill)(process.pid, signum)
            assert process.wait(10) == -signum  # which a shell shows as 130 and 143
            assert pipe_of(process.stderr).read() == b""
        kept = os.path.getsize(tmp_path / "out")
        assert kept < os.path.getsize(tmp_path / "f"), "it was done before the signal: the test shows nothing"
        with running(*args, stdout=out) as process:
            assert process.wait(60) == 0
    # Each line is in the output of exactly one of the two runs.
    assert sorted((tmp_path / "out").read_bytes().splitlines()) == sorted(lines)


@pytest.mark.parametrize("patient", [False, True])
def test_a_second_signal_does_not_wait_except_in_a_worker_where_it_is_the_same_one(patient: bool) -> None:
    done = []
    guard = Guard()
    guard.patient = patient

    def twice() -> None:
        with guard.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("first")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("second")

    with guard, pytest.raises(Stopped) as stopped:
        twice()
    assert stopped.value.signum == signal.SIGTERM
    assert done == ["first", "second"][: 1 + patient]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@WORKERS
def test_a_killed_command_has_doubled_no_line_and_the_next_goes_on(
    tmp_path: Path, lines: list[bytes], workers: int
) -> None:
    args = ("dedup", tmp_path / "s", tmp_path / "f", "--workers", workers)
    with open(tmp_path / "out", "wb") as out, running(*args, stdout=out) as process:
        while not os.path.getsize(tmp_path / "out"):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    first = (tmp_path / "out").read_bytes()
    assert len(first) < os.path.getsize(tmp_path / "f"), "it was done before the signal: the test shows nothing"
    with open(tmp_path / "out", "wb") as out, running(*args, stdout=out) as process:
        assert process.wait(60) == 0
    # What was committed and not yet written is in neither output: at most a block of the file, or of each worker.
    written = first[: first.rfind(b"\n") + 1].splitlines() + (tmp_path / "out").read_bytes().splitlines()
    assert len({*written}) == len(written)
    assert {*written} <= {*lines}
    assert sum(map(len, {*lines} - {*written})) <= (16 << 20 if workers == 1 else workers << 20)
    assert elements(tmp_path / "s") == {*lines}


@WORKERS
def test_ctrl_c_while_waiting_for_input_ends_it(tmp_path: Path, workers: int) -> None:
    with running("dedup", tmp_path / "s", "--workers", workers, "-q", stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        assert pipe_of(process.stderr).read() == b""
    assert elements(tmp_path / "s") == {b"a"}


def test_ctrl_c_ends_it_even_if_its_reader_has_stopped_reading(tmp_path: Path, lines: list[bytes]) -> None:
    with running("dedup", tmp_path / "s", tmp_path / "f", "--workers", 2, "-q") as process:
        assert pipe_of(process.stdout).read(1)
        time.sleep(0.5)  # now it waits in a write
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
        assert pipe_of(process.stderr).read() == b""


@WORKERS
def test_a_closed_pipe_ends_it_quietly(tmp_path: Path, lines: list[bytes], workers: int) -> None:
    with running("dedup", tmp_path / "s", tmp_path / "f", "--workers", workers) as process:
        line = pipe_of(process.stdout).readline()
        pipe_of(process.stdout).close()
        assert process.wait(10) == -signal.SIGPIPE  # as `sort` and `cat`: a shell shows 141
        assert pipe_of(process.stderr).read() == b""
    stored = elements(tmp_path / "s")
    assert line.rstrip(b"\n") in stored
    assert len(stored) < len(lines)


@WORKERS
def test_a_closed_pipe_is_noticed_without_more_input_and_nothing_more_is_stored(tmp_path: Path, workers: int) -> None:
    with running("dedup", tmp_path / "s", "--workers", workers, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        pipe_of(process.stdout).close()
        pipe_of(process.stdin).write(b"b\n")
        assert process.wait(10) == -signal.SIGPIPE
        assert pipe_of(process.stderr).read() == b""
    assert elements(tmp_path / "s") == {b"a"}


def test_head_in_a_shell_pipeline_is_quiet(tmp_path: Path, lines: list[bytes]) -> None:
    command = f'"{sys.executable}" -m rack dedup "{tmp_path}/s" "{tmp_path}/f" | head -1'
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (lines[0] + b"\n", b"")


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with running("dedup", tmp_path / "s", "--workers", 3, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds the workers in /proc")
def test_a_killed_worker_is_one_clear_error(tmp_path: Path) -> None:
    with running("dedup", tmp_path / "s", "--workers", 2, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        assert process.wait(10) == 1
        error = pipe_of(process.stderr).read()
    assert error.startswith(b"rack dedup: a worker process was killed by signal 9")
    assert error.count(b"\n") == 1


@WORKERS
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_were_ignored_stay_ignored(tmp_path: Path, workers: int, signum: signal.Signals) -> None:
    """As a shell's ``&`` and ``nohup`` start it; a Ctrl-C at that terminal goes to its workers too."""
    args = ("dedup", tmp_path / "s", "--workers", workers)
    with running(*args, stdin=subprocess.PIPE, preexec_fn=lambda: signal.signal(signum, signal.SIG_IGN)) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        os.killpg(process.pid, signum)
        pipe_of(process.stdin).write(b"b\n")
        assert pipe_of(process.stdout).read(2) == b"b\n"
        pipe_of(process.stdin).close()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("redirection", "code", "output", "error"),
    [
        (">&-", 1, b"", b"rack dedup: standard output is closed\n"),
        ("<&-", 1, b"", b"rack dedup: -: standard input is closed\n"),
        ("2>&-", 0, b"a\n", b""),
        ("<&- >&- 2>&-", 1, b"", b""),
    ],
)
def test_closed_standard_descriptors_damage_nothing(
    tmp_path: Path, redirection: str, code: int, output: bytes, error: bytes
) -> None:
    script = f'"{sys.executable}" -m rack dedup "{tmp_path}/s" {redirection}'
    done = subprocess.run(
        ["sh", "-c", script], env=ENVIRONMENT, input=b"a\n", capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (code, output)
    assert done.stderr.startswith(error)
    with PersistentSet[bytes](tmp_path / "s", serdes="bytes") as seen:
        assert seen.check() == len(seen) == len(output.split())
