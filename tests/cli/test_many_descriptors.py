"""A command that has over a thousand files open, as with hundreds of shards, reads and writes pipes as ever."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import rack
from rack.cli.ready import is_readable, wait_writable

pytest.importorskip("click")
pytest.importorskip("rich")

COUNT = 1100
#: The command, in a process that has so many files open: what it opens itself comes behind them.
COMMAND = f"""
import os, sys
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range({COUNT})]
from rack.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def many() -> Iterator[list[int]]:
    """More descriptors than ``select`` can take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and hard < 2 * COUNT:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * COUNT), hard))
    with ExitStack() as stack:
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(COUNT)]
        for fd in opened:
            stack.callback(os.close, fd)
        yield opened
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many")
def test_dedup_reads_a_pipe_by_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "dedup", "-q", "--shards", "2", tmp_path / "seen", pipe, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        feeder = threading.Thread(target=pipe.write_text, args=("a\nb\na\n",))
        feeder.start()
        output, errors = process.communicate(b"b\nc\n", timeout=60)
        feeder.join()
    assert (output, errors, process.returncode) == (b"a\nb\nc\n", b"", 0)


@pytest.mark.usefixtures("many")
def test_readiness_of_any_descriptor() -> None:
    ends = os.pipe()
    reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD, 1025) for end in ends)
    for end in ends:
        os.close(end)
    try:
        assert not is_readable(reader, 0)
        assert not is_readable(reader, 0.01)
        wait_writable(writer)
        os.write(writer, b"x")
        assert is_readable(reader, 0)
        os.read(reader, 1)
    finally:
        os.close(writer)
    assert is_readable(reader, 0)  # its end
    os.close(reader)


def test_nothing_selects() -> None:
    """``select.select`` fails from the 1,024th descriptor on."""
    for file in Path(rack.__file__).parent.rglob("*.py"):
        assert not re.search(r"\bselect\.select\b|from select import|SelectSelector", file.read_text()), file
