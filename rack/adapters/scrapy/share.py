"""What a process has of a crawl: the requests that it has claimed, and those that it is about to put.

Steps are gathered, as a transaction costs as much as three of them. Nothing that is asked for waits for that: what was
put counts as known at once, and whoever needs a request has everything written first.

Requests are in lanes, one for each slot of the downloader. The lane with the fewest downloads comes next.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from time import monotonic

from rack.adapters.scrapy.tally import Tally
from rack.errors import LeaseLostError
from rack.jobs.job import Job
from rack.queue import PersistentQueue

logger = logging.getLogger(__name__)

#: A request, as bytes.
Claimed = Job[bytes]

_MOST = 64  # requests that are claimed at a time
_SOON = 0.05  # seconds in which those of a lane should be gone: else fewer are claimed the next time
_KNOWN = 50_000  # keys, 5 MB
_UNUSED = 0.5  # seconds after which they are given back
_LOOK = 1.0  # seconds between two looks at which lanes there are


class Lane:
    """What this process knows of a lane, and has of it."""

    __slots__ = ("claimed", "flying", "held", "is_urgent", "may_have", "name", "size")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: deque[Claimed] = deque()  # claimed, and not asked for yet: the highest priority first
        self.flying = 0  # how many this process is at work on
        self.may_have = True  # whether there are more in the queue, as far as it is known
        self.is_urgent = False  # whether one that comes before those that are held was put
        self.size = 1  # how many are claimed at a time
        self.claimed = -inf  # when that was last done

    def take(self) -> Claimed:
        self.flying += 1
        return self.held.popleft()


class Share:
    """The share of a crawl that this process has. ``queue`` is open, and is closed by :meth:`close`.

    :param load: returns how many downloads of a lane there are.
    """

    def __init__(self, queue: PersistentQueue[bytes], lease: float, stats: Tally, load: Callable[[str], int]) -> None:
        self._queue = queue
        self._lease = lease
        self._stats = stats
        self._load = load
        self._batch = queue.batch()
        self._puts: list[tuple[bytes, bytes | None, int, str]] = []
        self._put_keys: set[bytes] = set()
        self._known: set[bytes] = set()  # some of the keys that are in the queue: most links lead to few pages
        self._done: list[Claimed] = []
        self._lanes: dict[str, Lane] = {}
        self._looked = -inf  # when it was looked which lanes there are
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

    def put(self, data: bytes, key: bytes | None, priority: int, name: str) -> None:
        """Put a request into a lane. It has no key if that is None."""
        if key is not None:
            self._put_keys.add(key)
        self._puts.append((data, key, priority, name))
        lane = self._lane(name)
        lane.may_have = True
        if lane.held and priority > lane.held[0].priority:
            lane.is_urgent = True

    def done(self, job: Claimed) -> None:
        self._lane(job.lane).flying -= 1
        self._done.append(job)

    def write(self) -> None:
        """Write what was put, and then what is done, in one transaction.

        :raises RackError: it could not be written. It is held, and written the next time.
        """
        puts, done = self._puts, self._done
        if not (puts or done):
            return
        with self._batch as batch:
            for data, key, priority, lane in puts:
                batch.put(data, key=key, priority=priority, unique=key is not None, lane=lane)
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
        lane = self._first()
        return lane.take() if lane is not None and lane.held and not lane.is_urgent else None

    def take(self) -> Claimed | None:
        """Return the request that comes next, right after :meth:`claim`."""
        lane = min((lane for lane in self._lanes.values() if lane.held), key=self._rank, default=None)
        return None if lane is None else lane.take()

    def claim(self) -> bool:
        """Claim requests for the lanes that come next; return whether there are any."""
        self.write()
        now = monotonic()
        if now - self._looked > _LOOK:
            self._look(now)
        if urgent := {lane.name: 1 for lane in self._lanes.values() if lane.is_urgent}:
            self._claim(urgent, now)
        while (lane := self._first()) is not None and not lane.held:
            self._claim(self._wanted(now), now)
        if not self._has_any():
            # Nothing was known to wait. But somebody may have put something, or left what he was at work on.
            self._look(now)
            self._hold(self._queue.claim_many(1), now)
        return self._has_any()

    def give_back_unused(self) -> None:
        """Give back what nobody has asked for: other processes may have use for it."""
        now = monotonic()
        for lane in self._lanes.values():
            if lane.held and now - lane.claimed > _UNUSED:
                self._give_back(lane.held)

    def extend(self, jobs: Iterable[Claimed]) -> None:
        """Have the leases of these jobs, and of those that nobody has asked for yet, begin anew."""
        for job in jobs:
            self._is_extended(job)  # one that is lost is told of when the request is over
        for lane in self._lanes.values():
            lane.held = deque(filter(self._is_extended, lane.held))

    def release(self, job: Claimed) -> None:
        """Give back a job, when all that it has led to is written."""
        self._lane(job.lane).flying -= 1
        self.write()
        self._give_back([job])

    def fail(self, job: Claimed, reason: str) -> None:
        self._lane(job.lane).flying -= 1
        with suppress(LeaseLostError):
            job.fail(reason)

    def close(self, jobs: Iterable[Claimed]) -> None:
        """Give back these jobs and all that nobody has asked for, and close the queue."""
        try:
            self.write()
            self._give_back([*jobs, *(job for lane in self._lanes.values() for job in lane.held)])
        finally:
            self._queue.close()

    def _has_any(self) -> bool:
        return any(lane.held for lane in self._lanes.values())

    # Lanes

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name)
        return lane

    def _first(self) -> Lane | None:
        """Return the lane that comes next, of those that have requests, here or in the queue."""
        lanes = [lane for lane in self._lanes.values() if lane.held or lane.may_have]
        return lanes[0] if len(lanes) == 1 else min(lanes, key=self._rank, default=None)

    def _rank(self, lane: Lane) -> tuple[int, int, bool, int]:
        """Order lanes: by their downloads; by what is about to be one; those that are claimed; by priority."""
        return self._load(lane.name), lane.flying, not lane.held, -lane.held[0].priority if lane.held else 0

    def _look(self, now: float) -> None:
        """Look which lanes have requests in the queue, and forget those that have none anywhere."""
        self._looked = now
        there = set(self._queue.lanes())
        self._lanes = {name: lane for name, lane in self._lanes.items() if name in there or lane.held or lane.flying}
        for name in there:
            self._lane(name)
        for lane in self._lanes.values():
            lane.may_have = lane.name in there

    def _wanted(self, now: float) -> dict[str, int]:
        """Return how many requests are to be claimed of which lanes: many, of those whose last ones were gone soon.

        They are of the lanes with the fewest downloads, if nothing is held of these.
        """
        wanted: dict[str, int] = {}
        bare = [lane for lane in self._lanes.values() if lane.may_have and not lane.held]
        least = min((self._load(lane.name) for lane in bare), default=0)
        left = _MOST
        for lane in sorted(bare, key=self._rank):
            if left <= 0 or self._load(lane.name) > least:
                break
            lane.size = min(2 * lane.size, _MOST) if now - lane.claimed < _SOON else max(1, lane.size // 2)
            wanted[lane.name] = min(lane.size, left)
            left -= lane.size
        return wanted

    def _claim(self, wanted: dict[str, int], now: float) -> None:
        jobs = self._queue.claim_of(wanted)
        found = Counter(job.lane for job in jobs)
        for name, most in wanted.items():
            lane = self._lane(name)
            lane.is_urgent = False
            lane.may_have = found[name] == most
        for job in jobs:
            lane = self._lane(job.lane)
            if lane.held and job.priority > lane.held[0].priority:
                lane.is_urgent = True  # there may be more of them
        self._hold(jobs, now)

    def _hold(self, jobs: Iterable[Claimed], now: float) -> None:
        for job in jobs:
            lane = self._lane(job.lane)
            lane.claimed = now
            lane.held.append(job)
            if len(lane.held) > 1 and job.priority > lane.held[-2].priority:
                lane.held = deque(sorted(lane.held, key=lambda job: -job.priority))

    # Requests

    def _give_back(self, jobs: Iterable[Claimed]) -> None:
        given = {*jobs}
        for name in {job.lane for job in given}:
            lane = self._lane(name)
            lane.held = deque(job for job in lane.held if job not in given)
            lane.is_urgent, lane.may_have = False, True
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
