"""What a process has of a crawl: the requests that it has claimed, and those that it is about to put.

Steps are gathered, as a transaction costs as much as three of them. Nothing that is asked for waits for that: what was
put counts as known at once, and whoever needs a request has everything written first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from time import monotonic

from scrapy.statscollectors import StatsCollector

from rack.errors import LeaseLostError
from rack.jobs.job import Job
from rack.queue import PersistentQueue

logger = logging.getLogger(__name__)

#: A request, as bytes.
Claimed = Job[bytes]

_MOST = 64  # requests that are claimed at a time
_SOON = 0.05  # seconds in which they should be gone: else fewer are claimed the next time
_KNOWN = 50_000  # keys, 5 MB
_UNUSED = 0.5  # seconds after which they are given back


class Share:
    """The share of a crawl that this process has. ``queue`` is open, and is closed by :meth:`close`."""

    def __init__(self, queue: PersistentQueue[bytes], lease: float, stats: StatsCollector) -> None:
        self._queue = queue
        self._lease = lease
        self._stats = stats
        self._batch = queue.batch()
        self._puts: list[tuple[bytes, bytes | None, int]] = []
        self._put_keys: set[bytes] = set()
        self._known: set[bytes] = set()  # some of the keys that are in the queue: most links lead to few pages
        self._done: list[Claimed] = []
        self._ready: deque[Claimed] = deque()  # the highest priority first
        self._is_urgent = False  # whether one that comes before them was put
        self._size = 1
        self._claimed = -inf  # when they were claimed
        self._kept: set[bytes] = set()

    def __len__(self) -> int:
        """Return how many requests of the whole crawl are not over. What was put is written first."""
        self.write()
        return len(self._queue)

    def knows(self, key: bytes) -> bool:
        if key in self._known:
            return True
        if not (key in self._put_keys or key in self._kept or self._queue.knows(key)):
            return False
        self._remember({key})
        return True

    def keep(self, key: bytes) -> None:
        """Know a key for the time of this process, without a request."""
        self._kept.add(key)

    def put(self, data: bytes, key: bytes | None, priority: int) -> None:
        """Put a request, which has no key if that is None."""
        if key is not None:
            self._put_keys.add(key)
        self._puts.append((data, key, priority))
        if self._ready and priority > self._ready[0].priority:
            self._is_urgent = True

    def done(self, job: Claimed) -> None:
        self._done.append(job)

    def write(self) -> None:
        """Write what was put, and then what is done, in one transaction.

        :raises RackError: it could not be written. It is held, and written the next time.
        """
        puts, done = self._puts, self._done
        if not (puts or done):
            return
        with self._batch as batch:
            for data, key, priority in puts:
                batch.put(data, key=key, priority=priority, unique=key is not None)
            for job in done:
                batch.done(job)
        self._puts, self._done = [], []
        self._remember(self._put_keys)
        self._put_keys = set()
        self._count("done", len(done) - len(batch.lost))
        self._count("filtered_late", len(puts) - batch.new)
        self._count("leases_lost", len(batch.lost))
        if batch.lost:
            logger.warning(
                "The leases of %(count)d requests ended before the requests were over, so these may be crawled twice:"
                " RACK_LEASE=%(lease)g is too short for what blocks this process",
                {"count": len(batch.lost), "lease": self._lease},
            )

    def next(self) -> Claimed | None:
        """Return the request that comes next, of those that are claimed; None: :meth:`claim` some first."""
        return self._ready.popleft() if self._ready and not self._is_urgent else None

    def take(self) -> Claimed | None:
        """Return the request that comes next, right after :meth:`claim`."""
        return self._ready.popleft() if self._ready else None

    def claim(self) -> bool:
        """Claim requests, many if those before were gone soon; return whether there are any."""
        self.write()
        if self._is_urgent:
            urgent = self._queue.claim_many(1)
            self._is_urgent = bool(urgent and self._ready and urgent[0].priority > self._ready[0].priority)
            self._ready = deque(sorted((*self._ready, *urgent), key=lambda job: -job.priority))
        if not self._ready:
            now = monotonic()
            self._size = min(2 * self._size, _MOST) if now - self._claimed < _SOON else max(1, self._size // 2)
            self._claimed = now
            self._ready.extend(self._queue.claim_many(self._size))
        return bool(self._ready)

    def give_back_unused(self) -> None:
        """Give back what nobody has asked for: other processes may have use for it."""
        if self._ready and monotonic() - self._claimed > _UNUSED:
            self._give_back(self._ready)

    def extend(self, jobs: Iterable[Claimed]) -> None:
        """Have the leases of these jobs, and of those that nobody has asked for yet, begin anew."""
        for job in jobs:
            self._is_extended(job)  # one that is lost is told of when the request is over
        self._ready = deque(filter(self._is_extended, self._ready))

    def release(self, job: Claimed) -> None:
        """Give back a job, when all that it has led to is written."""
        self.write()
        self._give_back([job])

    def close(self, jobs: Iterable[Claimed]) -> None:
        """Give back these jobs and all that nobody has asked for, and close the queue."""
        try:
            self.write()
            self._give_back([*jobs, *self._ready])
        finally:
            self._queue.close()

    def _give_back(self, jobs: Iterable[Claimed]) -> None:
        given = [*jobs]
        self._ready = deque(job for job in self._ready if job not in given)
        self._is_urgent = False
        for job in given:
            with suppress(LeaseLostError):
                job.release()
                self._count("released", 1)

    def _remember(self, keys: set[bytes]) -> None:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known |= keys

    def _is_extended(self, job: Claimed) -> bool:
        try:
            job.extend(self._lease)
        except LeaseLostError:
            return False
        return True

    def _count(self, name: str, count: int) -> None:
        if count:
            self._stats.inc_value(f"rack/{name}", count)
