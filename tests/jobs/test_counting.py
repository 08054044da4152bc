"""``rack.stat`` of a queue tells how many jobs are in each state, whoever has it open, and changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentQueue
from rack.jobs.job import Counts
from tests.support.processes import Crew, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

COUNTS = Counts(waiting=2, delayed=1, leased=1, done=1, failed=1)
Queue = PersistentQueue[Any]


def fill(queue: Queue) -> Any:
    queue.put_many(range(4))
    queue.put("later", delay=3600)
    queue.put("ready", delay=0.01)
    claimed = queue.claim_many(3)
    time.sleep(0.02)  # "ready" is, and has not been moved
    claimed[0].done()
    claimed[1].fail("404")
    return claimed[2]


def _hold(path: Path) -> None:
    with Queue(path, shards=3) as queue:
        job = fill(queue)
        tell()
        hear()
        assert queue.counts() == COUNTS
        job.done()


def contents(place: Path) -> dict[str, bytes]:
    """Return what is in the files, but for the tables of readers, and the log that SQLite makes for who only reads."""
    return {
        file.name: file.read_bytes() for file in place.iterdir() if not file.name.endswith(("-lock", "-wal", "-shm"))
    }


def test_it_is_told_while_another_process_has_it_open_while_this_one_has_and_when_nobody_has(
    tmp_path: Path, engine: str
) -> None:
    with Crew() as crew:
        worker = crew.start(_hold, tmp_path / "q")
        worker.hear()
        assert rack.stat(tmp_path / "q").jobs == COUNTS
        with Queue(tmp_path / "q", flag="r") as queue:
            assert rack.stat(tmp_path / "q").jobs == queue.stat().jobs == COUNTS
        worker.tell()
        worker.result()
    files = contents(tmp_path)
    found = rack.stat(tmp_path / "q")
    assert found.jobs == Counts(waiting=2, delayed=1, leased=0, done=2, failed=1)
    assert json.loads(json.dumps(found.as_dict()))["jobs"]["done"] == 2
    assert contents(tmp_path) == files


def test_it_is_none_for_others_and_where_it_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rack.PersistentSet(tmp_path / "s") as s:
        assert s.stat().jobs is None
    with Queue(tmp_path / "q") as queue:
        fill(queue)
    for file in tmp_path.glob("q*"):
        shutil.copy(file, tmp_path / file.name.replace("q", "p", 1))
    monkeypatch.setattr("rack.store.record.Record.is_of_earlier_boot", lambda record: True)
    assert rack.stat(tmp_path / "p").jobs is None  # it would have to be recovered first
