"""Queues: claiming a job and ending it, with 1 and 4 processes, and with few or many that wait: ``--only queue``.

Only Rack and persist-queue have leases, or anything like them: what a process took from the others is lost if it is
killed. Only Rack refuses a job that is there already. persist-queue is not made for many processes on one queue: with
four, what two of them got at once is not counted.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar

from bench.data import FULL, urls
from bench.rival import Kind, Pairs, Rival
from bench.workloads import Workload, check

WAITING = (1_000_000, 100_000, 10_000, 1_000)
WAITING_QUICK = WAITING[1:]
_MOST = 4000  # operations, so that the queue with the fewest does not run dry


class QueueRival(Rival):
    """A contestant that is a queue: of what others do it has but putting and counting."""

    q: Any

    def take(self) -> Any:
        """Take the next job, and end it."""
        raise NotImplementedError

    def set(self, pairs: Pairs) -> None:
        raise NotImplementedError

    def update(self, pairs: Pairs) -> None:
        self.set(pairs)

    def get(self, keys: list[str]) -> Any:
        raise NotImplementedError

    def contains(self, keys: list[str]) -> int:
        raise NotImplementedError

    def add(self, keys: list[str]) -> int:
        raise NotImplementedError

    def iterate(self, values: bool) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self.q.close()

    def count(self) -> int:
        return len(self.q)


class RackQueue(QueueRival):
    """PersistentQueue; it syncs no more than the others. ``waiting``: how many jobs there are beside the loop's."""

    name = "Rack"
    module = "rack"

    def __init__(self, waiting: int | None = None) -> None:
        self.waiting = waiting

    @property
    def label(self) -> str:
        return self.name if self.waiting is None else f"{self.name}, {self.waiting:,} waiting"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rack import PersistentQueue

        self.q = PersistentQueue[str](directory / "queue", durability="process").open()

    def set(self, pairs: Pairs) -> None:
        self.q.put_many(key for key, _ in pairs)

    def take(self) -> Any:
        job = self.q.claim()
        job.done()
        return job.item


class PersistQueue(QueueRival):
    """persist-queue's SQLiteAckQueue: get and ack."""

    name = "persist-queue, SQLiteAckQueue"
    module = "persistqueue"
    share = 0.02

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        persistqueue: Any = importlib.import_module("persistqueue")
        self.q = persistqueue.SQLiteAckQueue(str(directory / "queue"), multithreading=True, auto_resume=False)

    def set(self, pairs: Pairs) -> None:
        for key, _ in pairs:
            self.q.put(key)

    def take(self) -> Any:
        item = self.q.get(block=False)
        self.q.ack(item)
        return item

    def count(self) -> int:
        return 0  # what two processes got at once makes it wrong


class DequeQueue(QueueRival):
    """diskcache.Deque: append and popleft. It has no leases."""

    name = "diskcache.Deque"
    module = "diskcache"
    share = 0.2

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self.q = diskcache.Deque(directory=str(directory / "deque"))

    def close(self) -> None:
        self.q.cache.close()

    def set(self, pairs: Pairs) -> None:
        self.q.extend(key for key, _ in pairs)

    def take(self) -> Any:
        return self.q.popleft()


class HueyQueue(QueueRival):
    """huey's SqliteStorage: enqueue and dequeue. It has no leases."""

    name = "huey, SqliteStorage"
    module = "huey"
    share = 0.4

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        storage: Any = importlib.import_module("huey.storage")
        self.q = storage.SqliteStorage("bench", filename=str(directory / "huey.db"), timeout=60)

    def set(self, pairs: Pairs) -> None:
        for key, _ in pairs:
            self.q.enqueue(key.encode())

    def take(self) -> Any:
        data = self.q.dequeue()
        assert data is not None
        return data

    def count(self) -> int:
        return int(self.q.queue_size())


class Claims(Workload):
    """Each process takes as many jobs as it has put before, one at a time, whoever has put them."""

    ways: ClassVar[list[type[Rival]]] = [RackQueue, PersistQueue, DequeQueue, HueyQueue]

    @property
    def title(self) -> str:
        many = f"{self.processes} processes" if self.processes > 1 else "1 process"
        return f"{self.name}: claim a job and end it, {many}, {self.scale.writer_ops:,} jobs each"

    def rivals(self) -> list[Rival]:
        return [way() for way in self.ways]

    def ops(self, share: float) -> int:
        return max(int(self.scale.writer_ops * share), 200) * self.processes

    def work(self, ops: int) -> list[Any]:
        """This process's own part."""
        return urls(ops // self.processes, self.seed, 10 + self.worker)

    def warm(self, rival: Rival) -> None:
        rival.set([(url, 0) for url in self.work(self.ops(rival.share))])

    def run(self, rival: Rival, part: list[Any]) -> Any:
        assert isinstance(rival, QueueRival)
        take = rival.take
        for _ in part:
            take()

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        """In the parent, when all are done."""
        check(rival.count(), 0, "jobs left")


class Claims1(Claims):
    """One process, for comparison."""

    name = "queue-1"
    processes = 1


class Claims4(Claims):
    """Four processes."""

    name = "queue-4"
    processes = 4


class ClaimsWaiting(Workload):
    """What a claim costs while many or few jobs wait: the others are compared with that of the most."""

    name = "queue-waiting"
    turns = 10

    @property
    def title(self) -> str:
        return "queue-waiting: claim a job and end it, by how many wait"

    def rivals(self) -> list[Rival]:
        return [RackQueue(waiting) for waiting in (WAITING if self.scale.ops >= FULL.ops else WAITING_QUICK)]

    def ops(self, share: float) -> int:
        return min(self.scale.ops, _MOST)

    def prepare(self, rival: Rival, ops: int) -> None:
        assert isinstance(rival, RackQueue)
        rival.q.put_many(range((rival.waiting or 0) + ops))

    def work(self, ops: int) -> list[Any]:
        return [None] * ops

    def warm(self, rival: Rival) -> None:
        rival.count()

    def run(self, rival: Rival, part: list[Any]) -> Any:
        assert isinstance(rival, QueueRival)
        take = rival.take
        for _ in part:
            take()

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        assert isinstance(rival, RackQueue)
        check(rival.count(), rival.waiting, "jobs left")


QUEUES: list[type[Workload]] = [Claims1, Claims4, ClaimsWaiting]
