"""``rack queue``, and what other commands make of a queue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from rack import PersistentQueue
from tests.support.commands import run

Queue = PersistentQueue[Any]


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A queue of three jobs: one waits, one is done, one has failed."""
    with Queue(tmp_path / "q", shards=2) as queue:
        queue.put_many(["a", "b", ("c", 1)])
        jobs = {job.key: job for job in queue.claim_many(3)}
        jobs["a"].release()
        jobs["b"].done()
        jobs["c", 1].fail("404: not\nfound")
    return str(tmp_path / "q")


def test_it_shows_the_counts_and_what_has_failed(name: str) -> None:
    code, output, errors = run("queue", name)
    assert (code, errors) == (0, "")
    assert output.split("\n\n") == [
        "waiting  1\ndelayed  0\nleased   0\ndone     1\nfailed   1",
        "('c', 1)\t1 claim\t404: not found\n",
    ]
    counts = {"waiting": 1, "delayed": 0, "leased": 0, "done": 1, "failed": 1}
    assert json.loads(run("queue", name, "--json").output) == counts
    assert run("queue", name, "--failed") == (0, "('c', 1)\t1 claim\t404: not found\n", "")


def test_retry_has_failed_jobs_wait_again(name: str) -> None:
    code, output, errors = run("queue", name, "--retry", "--json")
    assert (code, errors) == (0, "rack queue: 1 job wait again\n")
    assert json.loads(output)["waiting"] == 2


def test_add_puts_a_job_for_each_line(name: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes("a\nnew\nnéw\nnew\n".encode())
    code, _, errors = run("queue", name, "--add", lines)
    assert (code, errors) == (0, "rack queue: 2 jobs put\n")
    with Queue(name, flag="r") as queue:
        assert sorted(map(str, queue.peek(9))) == ["a", "new", "néw"]
    code, _, errors = run("queue", tmp_path / "other", "--add", "-", input="1\n2\n", stdin=None)
    assert code == 1
    assert "--create makes one" in errors
    assert run("queue", tmp_path / "other", "--create", "--add", "-", input="1\n2\n", stdin=None).code == 0
    with Queue(tmp_path / "other", flag="r") as queue:
        assert sorted(queue.peek(9)) == ["1", "2"]


def test_a_dump_of_a_queue_is_loaded_as_that_queue(name: str, tmp_path: Path) -> None:
    assert run("dump", name, tmp_path / "dump.jsonl").code == 0
    assert run("load", tmp_path / "loaded", tmp_path / "dump.jsonl", "--shards", 5, "--engine", "sqlite3").code == 0
    assert run("copy", name, tmp_path / "copy", "--shards", 3).errors.endswith(
        "1 job copied to " + f"{tmp_path}/copy\n"
    )
    for made in ("loaded", "copy"):
        assert run("verify", tmp_path / made).code == 0
        with Queue(tmp_path / made) as queue, Queue(name) as original:
            assert queue.counts() == original.counts()
            assert queue.peek(9) == original.peek(9) == ["a"]
            assert list(queue.failed()) == list(original.failed())
    code, _, errors = run("load", tmp_path / "no", tmp_path / "dump.jsonl", "--serdes", "json")
    assert (code, "a queue has the serdes that its dump says" in errors) == (2, True)
    assert run("copy", name, tmp_path / "no", "--serdes", "json").code == 2
    assert not (tmp_path / "no.rack").exists()


def test_other_commands_know_what_a_queue_is(name: str, tmp_path: Path) -> None:
    assert "jobs           1 waiting, 0 delayed, 0 leased, 1 done, 1 failed" in run("stat", name).output
    assert run("count", name).output == "1\n"
    assert run("ls", tmp_path).output.split()[1] == "queue"
    for command in (["keys"], ["get", "a"], ["add", "a"], ["union", name], ["compare", name], ["load"]):
        code, _, errors = run(command[0], name, *command[1:])
        assert code in (1, 2)
        assert "is a queue" in errors
    code, _, errors = run("dedup", name)
    assert (code, "is a queue" in errors) == (1, True)
    assert run("repair", name).code == 0
    assert run("verify", f"{name}-repaired").code == 0
    assert run("queue", f"{name}-repaired").output == run("queue", name).output
    assert run("mv", name, tmp_path / "moved").code == 0
    assert run("rm", "--yes", tmp_path / "moved").code == 0
