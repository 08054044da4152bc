"""``rack demo --crawl``: it loses no page, says so, notices when it did, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rack import PersistentDict, PersistentQueue

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli.crawl import PAGES, TODO, crawl
from rack.cli.failure import Failure
from tests.support.commands import ENVIRONMENT
from tests.support.processes import end_sound as end_sound

COMMAND = [sys.executable, "-m", "rack", "demo", "--crawl", "--pages"]


def test_each_page_is_stored_while_workers_are_killed(tmp_path: Path) -> None:
    command = [*COMMAND, "500", "--kills", "6", "--dir", str(tmp_path / "new")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = re.findall(r"^([a-z ]+?) +([\d,]+)$", done.stdout, re.MULTILINE)
    found = {name: int(number.replace(",", "")) for name, number in rows}
    assert found["lost"] == 0
    assert 1 <= found["workers killed"] <= 6  # it may be over before the last one
    assert found["served again"] <= found["workers killed"]
    with (
        PersistentDict[str, bytes](tmp_path / "new" / PAGES, flag="r") as pages,
        PersistentQueue[str](tmp_path / "new" / TODO, flag="r") as todo,
    ):
        assert len(pages) == found["stored"] == found["pages of the site"] > 400
        counts = todo.counts()
        assert (len(todo), counts.done + counts.failed) == (0, 500)
    assert re.search(r"\d+ waiting, \d+ leased, \d+ done, \d+ failed; \d+ pages/s; \d workers? killed\n", done.stdout)
    commands = [line.strip() for line in done.stdout.split("To try next")[1].splitlines()[1:] if line.strip()]
    outputs = [
        subprocess.run(each, shell=True, env=ENVIRONMENT, capture_output=True, timeout=30, check=True).stdout.decode()
        for each in commands[1::2]
    ]
    assert re.search(rf"done +{counts.done}\n", outputs[0])
    assert outputs[1].count("\n") == found["stored"]
    assert not list((tmp_path / "new").iterdir())


def test_a_lost_page_and_one_that_was_served_too_often_are_failures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crawled = crawl(tmp_path, 120, 2, 0)
    crawled.prove()
    crawled.killed = -1
    with pytest.raises(Failure, match="0 pages served again, -1 kills"):
        crawled.prove()
    crawled.killed = 0
    with PersistentDict[str, bytes](tmp_path / PAGES) as pages:
        pages[crawled.site.start] = b"something else"
        pages["http://127.0.0.1/"] = b""
        del pages[next(url for url in pages if crawled.site.number(url))]
    with pytest.raises(Failure, match="1 page lost, 2 wrong or too many"):
        crawled.prove()


@pytest.mark.parametrize("option", ["--crawl --megabytes 1", "--crawl --plot p.png", "--pages 5", "--kills 5"])
def test_an_option_of_the_other_demo_is_wrong_usage(option: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rack", "demo", *option.split()]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"for --crawl" in done.stderr


@contextmanager
def begun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has crawled some pages; at the end of the block nothing of it is left."""
    with subprocess.Popen(
        [*COMMAND, "100000"],
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while " done" not in (line := process.stdout.readline()) or " 0 done" in line:
                assert line, process.communicate()
            assert list(tmp_path.glob("rack-demo-*"))
            yield process
            deadline = time.monotonic() + 30
            while _is_there(process.pid):
                assert time.monotonic() < deadline, "processes are left"
                time.sleep(0.05)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _is_there(group: int) -> bool:
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, check=True, text=True).stdout
    return any(int(pgid) == group and state[0] != "Z" for pgid, state in map(str.split, listed.splitlines()))


@pytest.mark.parametrize("everywhere", [True, False], ids=["ctrl-c", "sigterm"])
def test_a_signal_ends_it_and_leaves_nothing(everywhere: bool, tmp_path: Path) -> None:
    with begun(tmp_path) as process:
        if everywhere:
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert errors == ""
        assert process.returncode == -(signal.SIGINT if everywhere else signal.SIGTERM)
    assert not list(tmp_path.iterdir())


def test_if_it_is_killed_itself_no_process_is_left(tmp_path: Path) -> None:
    with begun(tmp_path) as process:
        process.kill()


def test_on_a_terminal_counts_are_shown_in_place(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "60", "--kills", "1", "--dir", str(tmp_path)]
    with subprocess.Popen(command, env={**ENVIRONMENT, "TERM": "xterm"}, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end, on Linux
            while block := os.read(ours, 4096):
                shown += block
    os.close(ours)
    assert process.returncode == 0, shown
    plain = re.sub(rb"\x1b\[[\d;?]*[a-zA-Z]", b"", shown).decode()
    assert len(re.findall(r"waiting +\d+ ", plain)) > 1
    assert re.search(r"\ndone +5\d .*\r\nfailed +\d .*\r\npages/s +\d+ *\r\nkilled +[01] +with -9", plain), plain
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") > 0  # the cursor is there again
