"""``rack watch``: what a store is like, again and again, and how much is written to it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rack import PersistentDict
from rack.cli import rates
from rack.cli.rates import Sight
from tests.cli.test_ends import ENVIRONMENT, pipe_of, running
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Numbers = PersistentDict[int, int]


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    with Numbers(tmp_path / "d", shards=2) as d:
        d.update(zip(range(100), range(100), strict=True))
    return tmp_path / "d"


class Clock:
    """Goes on by two seconds at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 2
        return self.now


def test_the_rates_are_of_commits_and_entries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "time", Clock())
    with Numbers(path) as d:
        d[0] = -1  # the log of SQLite is begun
        d[2] = -1
        first = Sight.of(str(path), None)
        assert (first.entries, first.commits, first.all_commits) == (None, (None, None), None)
        for number in range(50):
            d[1000] = number + 1
        second = Sight.of(str(path), first)
        assert sorted(rate or 0 for rate in second.commits) == [0, 25]
        assert (second.entries, second.all_commits) == (0.5, 25)
        d.delete_many(range(10))
        assert Sight.of(str(path), second).entries == -5
    assert Sight.of(str(path), second).entries is not None
    with Numbers(path, flag="n", shards=3):  # another store
        assert Sight.of(str(path), second).commits == (None, None, None)


def test_a_counter_that_begins_anew_is_no_negative_rate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Numbers(path) as d:
        for number in range(20):
            d[number] = -number - 1
        before = Sight.of(str(path), None)
    after = Sight.of(str(path), before)
    assert all(rate is None or rate >= 0 for rate in after.commits)


LINE = re.compile(
    rb"[\d-]+ [\d:]+ ([\d,]+) entries \((\?|[+-][\d,]+)/s\), (\?|[\d,]+) commits/s,"
    rb" .* free(?:, open in (?:1 process|0 processes))?\n"
)


def test_off_a_terminal_it_writes_a_line_at_each_look_until_ctrl_c(path: Path) -> None:
    with running("watch", path, "--interval", 0.1) as process, Numbers(path) as d:
        output = pipe_of(process.stdout)
        match = LINE.fullmatch(output.readline())
        assert match
        assert match.groups() == (b"100", b"?", b"?")
        d[1] = -1
        looks = 0
        while (match := LINE.fullmatch(output.readline())) and match[3] in (b"?", b"0"):
            d[looks] = -2 - looks
            looks += 1
            assert looks < 300, "nothing is written, it says"
        assert match
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        assert pipe_of(process.stderr).read() == b""


def test_a_reader_that_goes_away_ends_it(path: Path) -> None:
    with running("watch", path, "--interval", 0.1) as process:
        assert pipe_of(process.stdout).readline()
        pipe_of(process.stdout).close()
        assert process.wait(10) == -signal.SIGPIPE
        assert pipe_of(process.stderr).read() == b""


def test_a_store_that_goes_away_is_an_error(path: Path) -> None:
    with running("watch", path, "--interval", 0.1) as process:
        assert pipe_of(process.stdout).readline()
        os.rename(f"{path}.rack", f"{path}.gone")
        assert process.wait(10) == 1
        assert pipe_of(process.stderr).read().decode().startswith("rack watch: there is no store ")
    os.rename(f"{path}.gone", f"{path}.rack")


def test_on_a_terminal_it_is_shown_in_place_and_the_cursor_comes_back(path: Path) -> None:
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

    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80", "LINES": "50"}
    with running("watch", path, "--interval", 0.1, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        listen(b"commits/s")
        shown = b""
        listen(b"100")  # it is drawn again
        os.kill(process.pid, signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        listen(b"\x1b[?25h")
        os.kill(process.pid, signal.SIGCONT)
        shown = b""
        listen(b"commits/s")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        listen(b"\x1b[?25h")
        assert pipe_of(process.stderr).read() == b""
    os.close(ours)
