"""``with queue.batch() as batch:`` collects jobs to be put, and jobs that are done, and writes them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from rack.jobs import records
from rack.jobs.job import Job
from rack.jobs.steps import Steps

T = TypeVar("T")

_MOST = 1024  # steps of a transaction: it is not to take long


class Pack(Protocol):
    """What makes records of a job, and tells the shard that it belongs to."""

    def __call__(
        self, item: Any, key: Any, priority: int, group: str | None, unique: bool, lane: str
    ) -> tuple[Steps, records.Job]: ...


class QueueBatch(Generic[T]):
    """Jobs that are put, and jobs that are done, written together: what :meth:`rack.PersistentQueue.batch` gives.

    Nothing is written if the block raises. Else what was put is in the queue before anything is done: so the links of a
    page are there before the page is over, whenever the process is killed. A batch can be used again.

    >>> from rack import PersistentQueue
    >>> with PersistentQueue(tmp / "pages", unique="ever") as pages:
    ...     pages.put("/")
    ...     page = pages.claim()
    ...     with pages.batch() as batch:
    ...         batch.put("/a")
    ...         batch.put("/")
    ...         batch.done(page)
    ...     batch.new, batch.lost, pages.counts()
    True
    (1, [], Counts(waiting=1, delayed=0, leased=0, done=1, failed=0))
    """

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._puts: dict[Steps, list[records.Job]] = {}
        self._done: dict[Steps, list[Job[T]]] = {}
        #: How many of the jobs that were put are new, when the batch is written.
        self.new = 0
        #: Those of the jobs that are done whose lease had been lost: they may be done twice.
        self.lost: list[Job[T]] = []

    def __enter__(self) -> Self:
        """Begin. O(1).

        :returns: the batch itself.
        """
        self.new, self.lost = 0, []
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Write what is held, unless the block raised. O(k log n).

        Atomic if all of it is in one shard, as it is with ``shards=1``, and up to 1,024 jobs. Else atomic for those of
        a shard, a thousand at a time.
        """
        try:
            if exc_type is None:
                for steps, puts, jobs in self._turns():
                    answers, ended = steps.shard.transact(steps.turn, puts, [job._claimed for job in jobs])
                    self.new += sum(answers)
                    for job, was_leased in zip(jobs, ended, strict=True):
                        job._is_over = True
                        if not was_leased:
                            self.lost.append(job)
        finally:
            self._puts, self._done = {}, {}

    def put(
        self,
        item: T,
        *,
        key: Any = None,
        priority: int = 0,
        group: str | None = None,
        unique: bool = True,
        lane: str = "",
    ) -> None:
        """Put a job when the block ends. O(1). Atomic, then, with all of its shard.

        :param item: as in :meth:`rack.PersistentQueue.put`, and so are the others.
        :param key: its unique key.
        :param priority: the highest comes first.
        :param group: the name of its group.
        :param unique: False: it has no key.
        :param lane: the name of its lane.
        :raises TypeError: the key is not hashable.
        :raises SerializationError: the serdes cannot hold the item or the key.
        :raises ValueError: the priority is out of its range, or there are a group and a lane.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "batch_put") as jobs:
        ...     with jobs.batch() as batch:
        ...         batch.put("page 1", priority=2)
        ...     batch.new, jobs.peek()
        (1, ['page 1'])
        """
        steps, job = self._pack(item, key, priority, group, unique, lane)
        self._puts.setdefault(steps, []).append(job)

    def done(self, job: Job[T]) -> None:
        """Say that a job is done, when the block ends. O(1). Atomic, then, with all of its shard.

        If its lease is lost by then, the job will be in :attr:`lost`.

        :param job: it was claimed with the queue that made this batch.
        :raises LeaseLostError: never: that is seen when the block ends.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "batch_done") as jobs:
        ...     jobs.put_many("abc")
        ...     with jobs.batch() as batch:
        ...         for job in jobs.claim_many(2):
        ...             batch.done(job)
        ...     jobs.counts().done
        3
        2
        """
        self._done.setdefault(job._steps, []).append(job)

    def _turns(self) -> Iterator[tuple[Steps, Sequence[records.Job], Sequence[Job[T]]]]:
        """Yield what is done in each transaction."""
        shards = self._puts.keys() | self._done.keys()
        if len(shards) == 1:
            (steps,) = shards
            puts, done = self._puts.get(steps, []), self._done.get(steps, [])
            if len(puts) + len(done) <= _MOST:
                yield steps, puts, done
                return
        for steps, puts in self._puts.items():
            for start in range(0, len(puts), _MOST):
                yield steps, puts[start : start + _MOST], ()
        for steps, done in self._done.items():
            for start in range(0, len(done), _MOST):
                yield steps, (), done[start : start + _MOST]
