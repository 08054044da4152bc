"""What a queue hands out: jobs that are leased, jobs that have failed, counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from rack.errors import LeaseLostError
from rack.jobs.steps import Claimed, Steps
from rack.system.arguments import duration

T = TypeVar("T")

_LONGEST = 1e9  # seconds


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state: what :meth:`PersistentQueue.counts` returns."""

    #: Those that can be claimed; of a group, also those that can be when the ones before them are over.
    waiting: int
    #: Those that are not ready yet.
    delayed: int
    #: Those that somebody works on.
    leased: int
    #: Those that are done, since the queue was made or cleared. They are counted, and not kept.
    done: int
    #: Those that have failed for good.
    failed: int


@dataclass(frozen=True, slots=True)
class FailedJob(Generic[T]):
    """A job that has failed for good: one of what :meth:`PersistentQueue.failed` yields."""

    item: T
    #: Its unique key, or None.
    key: Any
    #: How often it was claimed.
    claims: int
    #: Why it has failed, in words.
    reason: str


class Job(Generic[T]):
    """A job that was claimed, and is leased: what :meth:`PersistentQueue.claim` returns.

    In a ``with`` block it is done at the end, and released by an exception. Else it ends by :meth:`done`,
    :meth:`release` or :meth:`fail`; or by itself, when its lease is over or its process is dead. Threads may hand it
    to each other. Only the process that has claimed it keeps its lease alive.

    >>> from rack import PersistentQueue
    >>> with PersistentQueue(tmp / "jobs") as jobs:
    ...     jobs.put("page 1")
    ...     with jobs.claim() as job:
    ...         job.item, job.key, job.claims
    ...     jobs.counts().done
    True
    ('page 1', 'page 1', 1)
    1
    """

    __slots__ = ("_claimed", "_is_over", "_name", "_steps", "claims", "item", "key", "priority")

    def __init__(self, name: str, steps: Steps, claimed: Claimed, item: T, key: Any) -> None:
        self._name = name
        self._steps = steps
        self._claimed = claimed
        self._is_over = False
        #: What was put.
        self.item = item
        #: Its unique key; None if it has none.
        self.key = key
        #: How often it was claimed, this time included.
        self.claims = claimed.job.claims
        #: What it was put with.
        self.priority = claimed.job.priority

    def __enter__(self) -> Self:
        """Return the job itself. O(1)."""
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if self._is_over:
            return
        if exc is None:
            self.done()
        else:
            try:
                self._give_back(0.0, f"{type(exc).__name__}: {exc}")
            except Exception:  # the error of the block goes before; the lease ends anyway
                return

    @property
    def lane(self) -> str:
        """The name of its lane; "" if it is in none."""
        return self._claimed.job.lane

    def __repr__(self) -> str:
        return f"<job {self.item!r}, claimed {self.claims} time{'s' if self.claims != 1 else ''}>"

    def done(self) -> None:
        """Say that the job is done: it is gone for good, and counted.

        O(log n), atomic.

        :raises LeaseLostError: its lease has ended, and somebody has taken it back: it may be done twice. A lease whose
            time is over while nobody has claimed anything since is still good for this.
        :raises NotOpenError: the queue is closed.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "done") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().done()
        ...     len(jobs)
        True
        0
        """
        self._step(self._steps.done)

    def release(self, delay: float = 0.0) -> None:
        """Give the job back: it waits again, in its old place, or fails if it was claimed ``max_claims`` times.

        O(log n), atomic.

        :param delay: in how many seconds it can be claimed again.
        :raises LeaseLostError: its lease has ended, and somebody has taken it back.
        :raises ValueError: ``delay`` is negative.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "released") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().release()
        ...     jobs.claim().claims
        True
        2
        """
        self._give_back(delay, f"was released, and was claimed {self.claims} times")

    def fail(self, reason: str) -> None:
        """Say that the job cannot be done: it is kept with the reason until :meth:`PersistentQueue.retry_failed`.

        O(log n), atomic.

        :param reason: why, in words.
        :raises LeaseLostError: its lease has ended, and somebody has taken it back.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "failed") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().fail("404")
        ...     next(jobs.failed()).reason
        True
        '404'
        """
        self._step(self._steps.fail, str(reason))

    def extend(self, seconds: float) -> None:
        """Have the lease end in so many seconds from now, whatever was left of it.

        O(log n), atomic.

        :param seconds: more than 0.
        :raises LeaseLostError: it has ended, and somebody has taken the job back.
        :raises ValueError: ``seconds`` is not more than 0.

        >>> from rack import PersistentQueue
        >>> with PersistentQueue(tmp / "extended", lease=5) as jobs:
        ...     jobs.put("page 1")
        ...     with jobs.claim() as job:
        ...         job.extend(60)
        True
        """
        extended = self._steps.shard.transact(
            self._steps.extend, self._claimed, nanoseconds("seconds", seconds, positive=True)
        )
        if extended is None:
            raise self._lost()
        self._claimed = extended

    def _give_back(self, delay: float, reason: str) -> None:
        self._step(self._steps.release, nanoseconds("delay", delay), reason)

    def _step(self, step: Callable[..., bool], *args: Any) -> None:
        if not self._steps.shard.transact(step, self._claimed, *args):
            raise self._lost()
        self._is_over = True

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"{self._name}: the job {self.item!r:.100} is not leased any more: its lease has ended and it was"
            " taken back, or it was ended before; a longer lease=, or extend() in time, avoids that"
        )


def nanoseconds(name: str, value: float, positive: bool = False) -> int:
    return int(min(duration(name, value, positive), _LONGEST) * 1e9)
