"""What is done to any store is done to a queue, and it is the same queue then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentQueue
from rack.jobs.job import Counts
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Queue = PersistentQueue[Any]


def full(path: Path, **options: Any) -> Queue:
    """Make a queue that has jobs in every state."""
    queue = Queue(path, shards=4, **options).open()
    queue.put_many(range(100))
    for job in queue.claim_many(60):
        if job.item % 3 == 0:
            job.done()
        elif job.item % 3 == 1:
            job.fail("no")
    queue.put("later", delay=1000)
    for number in range(5):
        queue.put(("grouped", number), group="group")
    return queue


def test_copies_of_all_kinds_are_the_same_queue(tmp_path: Path, engine: str) -> None:
    other = "lmdb" if engine == "sqlite3" else "sqlite3"
    with full(tmp_path / "q", unique="ever") as queue:
        counts, first = queue.counts(), queue.peek(1000)
        assert counts.leased
        assert counts.failed
        with queue.snapshot() as then:
            queue.put("not in the snapshot")
            assert then.counts() == counts
            assert then.peek(1000) == first
            with then.copy(tmp_path / "copy", shards=3, engine=other):
                pass
            then.backup(tmp_path / "backup")
        queue.close()
    rack.reshard(tmp_path / "backup", 7)
    rack.rename(tmp_path / "backup", tmp_path / "moved")
    rack.compact(tmp_path / "moved")
    for name in ("copy", "moved"):
        assert rack.verify(tmp_path / name).sound
        assert rack.stat(tmp_path / name).kind == "queue"
        with Queue(tmp_path / name, unique="ever") as queue:
            assert queue.counts() == counts
            assert sorted(map(str, queue.peek(1000))) == sorted(map(str, first))
            assert queue.put_many(range(100)) == 0
            assert queue.put("not in the snapshot")
            assert queue.retry_failed() == counts.failed
            while queue.counts().waiting:
                for job in queue.claim_many(50):
                    job.done()
            assert queue.counts() == Counts(0, 1, counts.leased, 106 - counts.leased, 0)
            queue.clear()
            assert queue.counts() == Counts(0, 0, 0, 0, 0)


@pytest.mark.damages
def test_verify_finds_records_that_are_wrong(tmp_path: Path) -> None:
    full(tmp_path / "q").close()
    assert rack.verify(tmp_path / "q").sound
    with Queue(tmp_path / "q") as queue:
        shard = queue._store.shards[2]
        queue.put_many(range(1000, 1050))
        key, value = shard.scan(b"w", b"x", False, True, 1)[0]
        shard.put(b"z" + key, value)
        shard.put(key, value[:5])
        shard.put(key[:-8] + bytes(8), value)
        shard.put(b"k1" + bytes(8), b"?")
        shard.put(key[:-8] + b"\xff" * 8, value)
    report = rack.verify(tmp_path / "q")
    assert {finding.kind for finding in report.findings} == {"record", "shard"}
    assert report.found >= 5


@pytest.mark.damages
def test_a_queue_whose_manifest_is_lost_is_repaired_to_the_same_queue(tmp_path: Path) -> None:
    with full(tmp_path / "q") as queue:
        counts, first = queue.counts(), queue.peek(1000)
        queue.close()
    (tmp_path / "q.rack").unlink()
    report = rack.repair(tmp_path / "q", tmp_path / "new")
    assert any("taken for a queue of 4 shards" in problem for problem in report.problems)
    assert rack.verify(tmp_path / "new").sound
    with Queue(tmp_path / "new") as queue:
        assert queue.counts() == counts
        assert sorted(map(str, queue.peek(1000))) == sorted(map(str, first))
        assert not queue.put("later")
