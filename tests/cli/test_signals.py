"""Ctrl-C and its like, at any moment: during imports, in a finalizer, while Python runs C, where it was ignored."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import rack
from rack import PersistentSet
from rack.cli.signals import Guard, Stopped
from tests.cli.test_ends import ENVIRONMENT, pipe_of, running
from tests.cli.test_waiting import lines_of
from tests.support.commands import RACK
from tests.support.processes import end_sound as end_sound

ROOT = os.path.dirname(rack.__file__)

# The first moments


#: What of Rack may be in a traceback: what comes before the command's first line. Else it is Python's own start.
EARLY = {("__init__.py",), ("__main__.py",), ("cli", "__init__.py"), ("system", "imports.py")}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("entry", ["script", "module"])
def test_ctrl_c_at_any_moment_of_the_start_ends_it_by_that_signal_and_quietly(
    tmp_path: Path, entry: str, seed: int, long: bool
) -> None:
    """...from the command's first line on, which comes before its imports and milliseconds after Python's own start."""
    rng = random.Random(seed)
    script = tmp_path / "rack"
    script.write_text("import sys\nfrom rack.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    command = [sys.executable, str(script)] if entry == "script" else RACK
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], env=ENVIRONMENT, check=True)
    longest = 0.1 + 6 * (time.monotonic() - started)
    loud = quiet = lost = 0
    count = 400 if long else 50
    for _ in range(count):
        with subprocess.Popen(
            [*command, "dedup", str(tmp_path / "s")],
            env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONWARNINGS"},  # of unclosed files
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            delay = rng.uniform(0, longest)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                lost += 1  # by Python, in its own start
                continue
            error = pipe_of(process.stderr).read().decode()
        if error:
            loud += 1
            ours = re.findall(rf'File "{re.escape(ROOT)}/(.*?)"', error)
            assert {Path(path).parts for path in ours} <= EARLY, error
            assert "Stopped" not in error, error
        else:
            quiet += 1
            assert process.returncode == -signal.SIGINT, delay
    assert quiet > count / 4, f"{loud} of {count} are told by Python"
    assert lost < count / 25


def test_nothing_is_imported_before_ctrl_c_is_seen_to() -> None:
    script = """
        import sys
        before = set(sys.modules)
        from rack.cli import main
        print(sorted(name for name in set(sys.modules) - before if name not in sys.builtin_module_names))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=ENVIRONMENT, capture_output=True, check=True, text=True
    )
    assert done.stdout == "['__future__', 'rack', 'rack.cli', 'rack.system', 'rack.system.imports']\n"


# Where it was ignored from the start, as by a shell's `&`


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    for name, numbers in (("a", range(30_000)), ("b", range(10_000, 40_000))):
        with PersistentSet[bytes](tmp_path / name, serdes="bytes", shards=2) as store:
            store.update(b"%d" % number for number in numbers)
    (tmp_path / "f").write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 60) for number in range(60_000)))
    return tmp_path


COMMANDS = [
    ["dedup", "s", "f", "--count"],
    ["dedup", "s", "f", "--workers", "2", "--count"],
    ["scan", "a"],
    ["union", "a", "b"],
    ["union", "a", "b", "-o", "out", "--workers", "2"],
    ["compare", "a", "b", "--workers", "2"],
    ["copy", "a", "out", "--workers", "2"],
    ["backup", "a", "out"],
    ["verify", "a", "--workers", "2"],
    ["repair", "a"],
    ["compact", "a"],
    ["reshard", "a", "3", "--workers", "2"],
    ["mv", "a", "out"],
    ["rm", "--yes", "a"],
    ["ls"],
    ["stat", "a"],
    ["demo", "--dir", ".", "--megabytes", "1"],
    *(["keys", "a"], ["count", "a"], ["has", "a", "1"], ["add", "a", "new"], ["del", "a", "--prefix", "1"]),
    *(["dump", "a", "out.jsonl.gz"], ["load", "s", "f", "--format", "tsv", "--no-header"]),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_goes_on_ignoring_ctrl_c(command: list[str], stores: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    options = {"cwd": stores, "preexec_fn": ignore}
    with running(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options) as process:
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.01)
    assert process.returncode == (1 if command[0] == "compare" else 0)


def test_it_goes_on_ignoring_ctrl_c_behind_an_ampersand_and_ends_by_sigterm(tmp_path: Path) -> None:
    script = f'mkfifo pipe; "{sys.executable}" -m rack dedup s < pipe > out & echo $!; wait $!; echo $?'
    with subprocess.Popen(
        ["sh", "-c", script], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shell:
        pid = int(pipe_of(shell.stdout).readline())
        while not (tmp_path / "pipe").exists():
            time.sleep(0.01)
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.write(b"a\n")
            while not (tmp_path / "out").exists() or (tmp_path / "out").read_bytes() != b"a\n":
                time.sleep(0.01)
            os.kill(pid, signal.SIGINT)
            pipe.write(b"b\n")
            while (tmp_path / "out").read_bytes() != b"a\nb\n":
                time.sleep(0.01)
            os.kill(pid, signal.SIGTERM)
            assert pipe_of(shell.stdout).read() == b"143\n"


# Exceptions that Python drops


def test_a_signal_that_comes_in_a_finalizer_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    class Late:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # here Stopped is raised, and dropped
                pass

    def collect() -> None:
        late = Late()
        del late
        time.sleep(5)

    started = time.monotonic()
    with pytest.raises(Stopped) as stopped, Guard():
        collect()
    assert stopped.value.signum == signal.SIGTERM
    assert time.monotonic() - started < 3
    assert capfd.readouterr().err == ""


def test_a_signal_that_somebody_drops_is_not_lost_and_not_raised_again_while_things_are_closed() -> None:
    done: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            done.append("dropped")
        try:
            time.sleep(5)
        finally:
            time.sleep(1.5)  # what has to be closed takes its time
            done.append("closed")

    started = time.monotonic()
    with pytest.raises(Stopped), Guard():
        work()
    assert done == ["dropped", "closed"]
    assert 1.5 < time.monotonic() - started < 4


def test_other_exceptions_in_finalizers_are_told_as_ever() -> None:
    script = """
        from rack.cli.signals import Guard
        class Broken:
            def __del__(self): raise ValueError("mine")
        with Guard():
            Broken()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=ENVIRONMENT, capture_output=True, check=True, text=True
    )
    assert "ValueError: mine" in done.stderr


def test_a_signal_in_what_is_held_is_how_it_ends_whatever_that_raises() -> None:
    guard = Guard()

    def work() -> None:
        with guard.held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("in the middle")

    with guard, pytest.raises(Stopped):
        work()


def test_everything_is_as_it_was_behind_a_guard() -> None:
    numbers = (*(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP), signal.SIGALRM, signal.SIGURG)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    with Guard():
        assert signal.getsignal(signal.SIGTSTP) not in (signal.SIG_DFL, before[0][3])
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


# While the main thread is in C

#: A program that waits in C, where no handler of Python's runs, for ten seconds; or until it is ended.
STUCK = """
    import ctypes, sys
    from rack.cli.signals import Stopped, guard
    libc = ctypes.CDLL(None)
    mask = (ctypes.c_ulong * 16)(*[2 ** 64 - 1] * 16)
    guard.is_making = "making" in sys.argv
    try:
        with guard:
            print("waits", flush=True)
            libc.poll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int]
            mutex = (ctypes.c_long * 8)()
            libc.pthread_mutex_init(mutex, None)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)  # as LMDB does
    except Stopped as stopped:
        stopped.die()
"""


@pytest.mark.one_in(3)
@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux keeps a mutex")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_even_where_it_waits_in_c_for_ever(signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUCK)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    ) as process:
        try:
            assert pipe_of(process.stdout).readline() == b"waits\n"
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGTSTP)
            deadline = time.monotonic() + 20
            while not (os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.2)
            assert process.poll() is None
            os.kill(process.pid, signum)
            assert process.wait(20) == -signum
            assert pipe_of(process.stderr).read() == b""
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux keeps a mutex")
def test_what_makes_files_is_given_more_time_unless_it_is_asked_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUCK), "making"], env=ENVIRONMENT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert pipe_of(process.stdout).readline() == b"waits\n"
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(4)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(5) == -signal.SIGINT
        finally:
            process.kill()


# The terminal


def test_ctrl_z_takes_the_bar_away_and_gives_the_cursor_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    shown = b""

    def listen(until: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 20
        while until not in shown:
            assert time.monotonic() < deadline, shown
            try:
                shown += os.read(ours, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)

    with running(
        *("dedup", tmp_path / "s"),
        stdin=subprocess.PIPE,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        pipe_of(process.stdin).write(b"a\n")
        listen(b"1 line, ")
        assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") + 1  # the cursor is hidden
        os.kill(process.pid, signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        listen(b"\x1b[?25h")
        os.kill(process.pid, signal.SIGCONT)
        shown = b""
        pipe_of(process.stdin).write(b"b\n")
        listen(b"2 lines, ")  # and it is there again
        pipe_of(process.stdin).close()
        assert process.wait(10) == 0
    os.close(ours)


def test_workers_that_are_told_to_end_while_they_wait_do_so(tmp_path: Path) -> None:
    with running("dedup", tmp_path / "s", "--workers", 2, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        time.sleep(1.1)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert lines_of(process, "interrupted") == (
            "rack dedup: interrupted: 1 line read, 1 new, 0 seen before; 2 bytes\n"
        )
