"""PersistentQueue: jobs on disk that many processes put and claim at once, and that survive whoever works on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from os import PathLike, urandom
from typing import Any, Generic, TypeVar

from xxhash import xxh3_64_digest

from rack.codec.failure import is_failure, unserializable
from rack.codec.serdes import SerdesArgument
from rack.container.described import Described
from rack.container.rows import chunks
from rack.errors import DeserializationError, RackError, told
from rack.jobs import records
from rack.jobs.batch import QueueBatch
from rack.jobs.counting import counted, to_be_done
from rack.jobs.job import Counts, FailedJob, Job, nanoseconds
from rack.jobs.opened import Opened
from rack.jobs.records import LEAST_PRIORITY, MOST_PRIORITY
from rack.jobs.steps import Claimed, Steps
from rack.shard.spans import Span, blocks
from rack.store.rotation import rotated
from rack.store.sharded import Store
from rack.system.arguments import duration, whole
from rack.system.imports import importing
from rack.system.processes import Identity, myself, myself_worldwide

T = TypeVar("T")

_CHUNK = 1024  # jobs that are put, or looked at, at a time
_SWEEP = 1.0  # seconds between two looks at who has leases, while there are jobs to claim
_SWEEP_IDLE = 0.25  # ... while there are none
_PAUSE = 0.001, 0.04  # seconds between two looks for a job: the first one, and the longest
_MEMORIES = {None: records.NO_KEY, "waiting": records.FORGOTTEN, "ever": records.REMEMBERED}


class PersistentQueue(Described, Generic[T]):
    """A queue of jobs on disk. Many processes put jobs and claim them at once, and a job survives its worker.

    Whoever claims a job has a *lease* of it: nobody else gets it until the lease ends. It ends when the job is done,
    released or failed, when its time is over, and soon after its process has died (on Linux; elsewhere if its process
    id is free). Then the job is claimed again. So each job is done at least once. It is done twice only if a worker
    dies, or takes longer than its lease, after the work and before ``done()``.

    Use it in a ``with`` block, or between ``open()`` and ``close()``. Threads may share one object. It can be pickled,
    and a forked child may go on using it.

    *Keys.* A job has a unique key: the item itself, if no other one is given. Of jobs with equal keys only one is put.

    *Order.* The highest priority first, then the oldest. With ``shards=1`` that is exact. Else each shard is in that
    order, and the claims of a process take the shards by turns: a job that comes first is passed over by each process
    at most ``shards - 1`` times.

    *Groups.* Of the jobs of a group one is leased at a time: of a host, say, that a crawler is not to load. The key of
    a job has to be in one group only.

    *Lanes.* A worker that can say which jobs it has use for puts them into lanes, which have names, and claims of those
    that it likes: :meth:`claim_of`. Each lane is in order for itself. What is claimed without that is of any lane.

    *Atomic:* every step of a job, for all threads and processes. *How long it takes:* O(log n) a step, whatever the
    number of jobs that wait; s shards are looked at when there are few or none.

    *Errors:* those of :class:`rack.PersistentSet`, and :exc:`rack.LeaseLostError`.

    :param name: the path prefix of the files, a str or a path: ``"data/jobs"``. The directory must exist. Or the URL of
        a store on a server: ``"redis://host:6379/0?name=jobs"``.
    :param lease: seconds that a job which is claimed with this object is leased. No clock that is set ends it early.
    :param unique: when ``put`` refuses a job with a key that was put before. None: never, jobs have no keys.

        - "waiting" (default): as long as the other job is neither done nor failed.
        - "ever": always. The keys are kept, so this is the set of what a crawl has seen, too.
    :param max_claims: how often a job is claimed at most. When that was in vain it has failed. None: no limit.
    :param pause: seconds between two claims of the same group, at least.
    :param serdes: how items become bytes, as of a :class:`rack.PersistentDict`. Default "marshal".
    :param shards: the number of files that a new store is cut into, 1 to 9999. Default 16.
    :param engine: "lmdb" (default) or "sqlite3".
    :param durability: what a power failure may cost: "process", "everysec" (None for a new store) or "always", as of a
        :class:`rack.PersistentSet`.
    :param flag: "r" reads only, "w" reads and writes, "c" (default) makes the store if there is none, "n" makes a new,
        empty one in place of the old one.
    :param timeout: seconds to wait for a write of another process, until LockTimeoutError. None: as long as it takes.
    :raises TypeError: an argument is of a wrong type.
    :raises ValueError: an argument has a value that is not allowed. The message says which ones are.

    >>> with PersistentQueue(tmp / "pages", lease=30) as pages:
    ...     pages.put("https://example.org/"), pages.put("https://example.org/")
    ...     while (job := pages.claim()) is not None:
    ...         with job:
    ...             print("fetching", job.item)
    ...     pages.counts()
    (True, False)
    fetching https://example.org/
    Counts(waiting=0, delayed=0, leased=0, done=1, failed=0)
    """

    _kind = "queue"

    _opened: Opened
    _me: Callable[[], Identity]

    def __init__(
        self,
        name: str | PathLike[str],
        lease: float = 60.0,
        *,
        unique: str | None = "waiting",
        max_claims: int | None = None,
        pause: float = 0.0,
        serdes: SerdesArgument = None,
        shards: int | None = None,
        engine: str | None = None,
        durability: str | None = None,
        flag: str = "c",
        timeout: float | None = None,
    ) -> None:
        if unique not in _MEMORIES:
            raise ValueError(f"unique={unique!r}: must be 'waiting', 'ever' or None")
        self._lease = nanoseconds("lease", lease, positive=True)
        self._memory = _MEMORIES[unique]
        self._max_claims = None if max_claims is None else whole("max_claims", max_claims, 1)
        self._group_pause = nanoseconds("pause", pause)
        super().__init__(
            name,
            serdes=serdes,
            shards=shards,
            engine=engine,
            durability=durability,
            flag=flag,
            timeout=timeout,
        )

    def _use(self, store: Store) -> None:
        super()._use(store)
        self._me = myself if store.clock is None else myself_worldwide
        self._opened = Opened(store, self._max_claims, self._group_pause)

    def _set_closed(self, reason: Exception | None = None) -> None:
        super()._set_closed(reason)
        self._opened = self._store  # type: ignore[assignment]  # which raises what there is to say

    def _extra(self) -> Any:
        attributes, slots = super()._extra()
        return {name: value for name, value in attributes.items() if name != "_opened"}, slots

    def _count_at_once(self) -> int | None:
        return None  # entries are records, of which a job has several

    # Putting

    def put(
        self,
        item: T,
        *,
        key: Any = None,
        priority: int = 0,
        delay: float = 0.0,
        group: str | None = None,
        unique: bool = True,
        lane: str = "",
    ) -> bool:
        """Put a job, unless there is one with its key.

        O(log n). Atomic: of all threads and processes that put a key at once, exactly one gets True.

        :param item: what the serdes can hold.
        :param key: its unique key, hashable; None: the item itself.
        :param priority: the highest comes first; -2**31 to 2**31 - 1.
        :param delay: in how many seconds it is ready to be claimed, by the time of day.
        :param group: the name of its group; None: it is in none.
        :param unique: False: this job has no key, as in a queue with ``unique=None``. It is put in any case.
        :param lane: the name of its lane; "": it is in none.
        :returns: True if this call put it; False if its key was there. What ``unique`` says decides that.
        :raises TypeError: the key is not hashable; an item that is not, as a dict or list, needs a ``key``, or a queue
            with ``unique=None``.
        :raises SerializationError: the serdes cannot hold the item or the key.
        :raises ValueError: the priority is out of its range, or the delay negative, or there are a group and a lane.
        :raises TooLargeError: it is larger than the engine can hold.
        :raises ReadOnlyError: the queue was opened with ``flag="r"``.

        >>> with PersistentQueue(tmp / "put") as jobs:
        ...     jobs.put("later"), jobs.put("first", priority=9), jobs.put({"page": 1}, key=1)
        (True, True, True)
        """
        steps, job = self._packed(item, key, priority, group, unique, lane)
        return bool(steps.shard.transact(steps.put, (job,), nanoseconds("delay", delay))[0])

    def put_many(self, items: Iterable[T], *, priority: int = 0, delay: float = 0.0) -> int:
        """Put jobs, each with its item as its key; count the new ones. O(k log n).

        Streams, about a thousand at a time. Not atomic as a whole; atomic for those of a block in a shard.

        :param items: any iterable.
        :param priority: of all of them, as in :meth:`put`.
        :param delay: of all of them.
        :returns: how many jobs this call put.
        :raises TypeError: as in :meth:`put`. The blocks before are put.
        :raises SerializationError: the serdes cannot hold an item.
        :raises ValueError: as in :meth:`put`.
        :raises Exception: whatever ``items`` raises.

        >>> with PersistentQueue(tmp / "put_many") as jobs:
        ...     jobs.put_many(["a", "b", "a"])
        2
        """
        wait, new = nanoseconds("delay", delay), 0
        for chunk in chunks(items, _CHUNK):
            by_shard: dict[Steps, list[records.Job]] = {}
            for item in chunk:
                steps, job = self._packed(item, None, priority, None, True, "")
                by_shard.setdefault(steps, []).append(job)
            for steps, jobs in rotated(list(by_shard.items())):
                new += sum(steps.shard.transact(steps.put, jobs, wait))
        return new

    def remember(self, keys: Iterable[Any]) -> int:
        """Have keys refused from now on, as if jobs with them had been put and done; none is counted. O(k log n).

        For what was seen before there was this queue. Not atomic as a whole; atomic for those of a block in a shard.

        :param keys: unique keys, any iterable. Those that are there already are left as they are.
        :returns: how many were not there.
        :raises TypeError: a key is not hashable.
        :raises SerializationError: the serdes cannot hold a key.
        :raises ValueError: the queue has not ``unique="ever"``.
        :raises Exception: whatever ``keys`` raises.

        >>> with PersistentQueue(tmp / "remember", unique="ever") as jobs:
        ...     jobs.remember(["page 1", "page 2"])
        ...     jobs.put("page 1"), jobs.put("page 3")
        2
        (False, True)
        """
        if self._memory != records.REMEMBERED:
            raise ValueError("remember() is for queues with unique='ever': others forget what is done")
        new = 0
        for chunk in chunks(keys, _CHUNK):
            by_shard: dict[Steps, list[bytes]] = {}
            for key in chunk:
                data = self._dump_key(key)
                tail = xxh3_64_digest(data)
                by_shard.setdefault(self._steps_of(tail), []).append(records.key_record(data, tail))
            for steps, key_records in rotated(list(by_shard.items())):
                new += steps.shard.transact(steps.remember, key_records)
        return new

    def batch(self) -> QueueBatch[T]:
        """Collect jobs that are put, and jobs that are done, in a ``with`` block, and write them together at its end.

        O(1). What was put is there before anything is done. Atomic if all is in one shard, else not as a whole.

        :returns: a :class:`rack.jobs.batch.QueueBatch`.
        :raises NotOpenError: the queue is not open.

        >>> with PersistentQueue(tmp / "batch", shards=1) as jobs:
        ...     jobs.put("page 1")
        ...     with jobs.claim() as job, jobs.batch() as batch:
        ...         batch.put("page 2")
        ...         batch.done(job)
        ...     jobs.peek()
        True
        ['page 2']
        """
        self._open_store()
        return QueueBatch(self._packed)

    def knows(self, key: Any, *, group: str | None = None) -> bool:
        """Return whether :meth:`put` would refuse a job with this key. O(log n), no lock is taken.

        Atomic; but another process may put such a job the next moment: only ``put`` itself tells for sure.

        :param key: a unique key.
        :param group: the group that a job with this key is in, if it is in one.
        :returns: True if a job with this key is there, or is remembered.
        :raises TypeError: the key is not hashable.
        :raises SerializationError: the serdes cannot hold the key.

        >>> with PersistentQueue(tmp / "knows", unique="ever") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().done()
        ...     jobs.knows("page 1"), jobs.knows("page 2")
        True
        (True, False)
        """
        key_bytes = self._dump_key(key)
        if self._memory == records.NO_KEY:
            return False
        tail = xxh3_64_digest(key_bytes if group is None else records.group_name(group))
        state = self._steps_of(tail).shard.get(records.key_record(key_bytes, tail))
        return records.refuses(state, self._memory)

    def _packed(
        self, item: T, key: Any, priority: int, group: str | None, unique: bool, lane: str
    ) -> tuple[Steps, records.Job]:
        """Return a job, and the steps of the shard where it belongs."""
        priority = whole("priority", priority, LEAST_PRIORITY, MOST_PRIORITY)
        memory = self._memory if unique else records.NO_KEY
        key_bytes = b""
        if key is not None or memory != records.NO_KEY:
            try:
                key_bytes = self._dump_key(item if key is None else key)
            except TypeError as error:
                if key is not None or isinstance(error, RackError):
                    raise
                raise TypeError(f"{error}: an item is its own key; put() it with key=, or have unique=None") from None
        try:
            data = self._dump(item)
        except Exception as error:
            raise unserializable(item, "item", self._serdes.name, error, self._serdes.dumps) from error
        group_bytes = records.lane_name(lane)
        if group is not None:
            if lane:
                raise ValueError(f"group={group!r}, lane={lane!r}: a job is in a group or in a lane, not in both")
            group_bytes = records.group_name(group)
            tail = xxh3_64_digest(group_bytes)
        else:
            tail = urandom(records.TAIL) if memory == records.NO_KEY else xxh3_64_digest(key_bytes)
        return self._steps_of(tail), records.Job(priority, 0, 0, memory, key_bytes, group_bytes, data, tail)

    def _steps_of(self, tail: bytes) -> Steps:
        steps = self._opened.steps
        return steps[int.from_bytes(tail, "big") * len(steps) >> 64]

    # Claiming

    def claim(self, wait: float | None = None) -> Job[T] | None:
        """Claim the job that comes next: it is leased to this process.

        O(log n); O(s) to find a shard that is not empty. Atomic: each job is leased to one caller at a time.

        :param wait: how many seconds to wait for a job if none can be claimed; None: not at all. It is seen at most
            50 ms after it was put.
        :returns: a :class:`rack.jobs.job.Job`; None: there is none.
        :raises DeserializationError: the serdes cannot read the item. The job has failed, then.
        :raises ReadOnlyError: the queue was opened with ``flag="r"``.
        :raises ValueError: ``wait`` is negative.

        >>> with PersistentQueue(tmp / "claim") as jobs:
        ...     jobs.put("page 1")
        ...     with jobs.claim() as job:
        ...         job.item
        ...     jobs.claim(wait=0.1)
        True
        'page 1'
        """
        seconds = 0.0 if wait is None else duration("wait", wait)
        jobs = self._claim(1)
        if not jobs and seconds:
            for _ in self._looks(seconds):
                if jobs := self._claim(1):
                    break
        return jobs[0] if jobs else None

    def claim_many(self, most: int) -> list[Job[T]]:
        """Claim the jobs that come next, at most so many. O(k log n), and O(s).

        Not atomic as a whole; atomic for those of a shard.

        :param most: how many jobs at most.
        :returns: a list of :class:`rack.jobs.job.Job`; empty if none can be claimed.
        :raises DeserializationError: the serdes cannot read an item. That job has failed, and the others wait again.
        :raises ValueError: ``most`` is negative.

        >>> with PersistentQueue(tmp / "claim_many") as jobs:
        ...     jobs.put_many("abc")
        ...     sorted(job.item for job in jobs.claim_many(5))
        3
        ['a', 'b', 'c']
        """
        return self._claim(most) if (most := whole("most", most, 0)) else []

    def claim_of(self, lanes: Mapping[str, int]) -> list[Job[T]]:
        """Claim the jobs that come next in each of these lanes. O(k log n), and O(s).

        Not atomic as a whole; atomic for those of a shard.

        :param lanes: how many jobs at most of each lane, by its name; "": of those that are in none.
        :returns: a list of :class:`rack.jobs.job.Job`, with its ``lane``; empty if none can be claimed.
        :raises DeserializationError: as of :meth:`claim_many`.
        :raises TypeError: a name is not a string, or a number is none.
        :raises ValueError: a number is negative.

        >>> with PersistentQueue(tmp / "claim_of", shards=1) as jobs:
        ...     for number in range(3):
        ...         jobs.put(f"a{number}", lane="a"), jobs.put(f"b{number}", lane="b")
        ...     sorted(jobs.lanes()), sorted(job.item for job in jobs.claim_of({"a": 1, "b": 2}))
        (True, True)
        (True, True)
        (True, True)
        (['a', 'b'], ['a0', 'b0', 'b1'])
        """
        left = Counter(lanes)
        for name, most in left.items():
            left[name] = whole("lanes", most, 0)
        now = time.monotonic()
        if now - self._opened.swept > _SWEEP:
            self._sweep(now)
        me, found = records.pack_owner(self._me()), []
        for steps in rotated(self._opened.steps):
            wanted = {records.lane_name(name): most for name, most in left.items() if most > 0}
            if not wanted:
                break
            claimed = [Claimed.of(*each) for each in steps.shard.transact(steps.claim_of, wanted, self._lease, me)]
            left.subtract(each.job.lane for each in claimed)
            found += [(steps, each) for each in claimed]
        return self._jobs(found)

    def lanes(self) -> list[str]:
        """Return the names of the lanes in which a job can be claimed; "" is for jobs that are in none.

        O(s + k log n) for k lanes. Atomic for no more than one of them.

        :returns: a list, in no order.
        :raises NotOpenError: the queue is not open.

        >>> with PersistentQueue(tmp / "lanes") as jobs:
        ...     jobs.put("page 1", lane="example.org"), jobs.put("page 2")
        ...     sorted(jobs.lanes())
        (True, True)
        ['', 'example.org']
        """
        return list({name for steps in self._opened.steps for name in steps.lanes()})

    def _claim(self, most: int) -> list[Job[T]]:
        now = time.monotonic()
        if now - self._opened.swept > _SWEEP:
            self._sweep(now)
        found = self._claimed(most)
        if not found and now - self._opened.swept > _SWEEP_IDLE and self._sweep(now):
            found = self._claimed(most)
        return self._jobs(found)

    def _claimed(self, most: int) -> list[tuple[Steps, Claimed]]:
        opened, me = self._opened, records.pack_owner(self._me())
        may_have = opened.may_have
        found: list[tuple[Steps, Claimed]] = []
        for _ in range(len(may_have)):
            number = opened.turn
            opened.turn = (number + opened.stride) % len(may_have)
            steps = opened.steps[number]
            if may_have[number] or not steps.due():  # else no writer lock is taken
                claimed = steps.shard.transact(steps.claim, most - len(found), self._lease, me)
                may_have[number] = bool(claimed)
                found += [(steps, Claimed.of(*each)) for each in claimed]
                if len(found) >= most:
                    break
        return found

    def _jobs(self, found: list[tuple[Steps, Claimed]]) -> list[Job[T]]:
        jobs = []
        try:
            while found:
                steps, claimed = found[-1]
                jobs.append(Job(self.name, steps, claimed, self._item(claimed.job), self._key(claimed.job)))
                found.pop()
        except DeserializationError as error:
            steps, claimed = found.pop()
            steps.shard.transact(steps.fail, claimed, told(error))
            for steps, claimed in (*found, *((job._steps, job._claimed) for job in jobs)):
                steps.shard.transact(steps.release, claimed, 0, "was claimed with another one, which could not be read")
            raise
        jobs.reverse()
        return jobs

    def _item(self, job: records.Job) -> Any:
        return self._loaded(self._load, job.item)

    def _key(self, job: records.Job) -> Any:
        return self._loaded(self._load_key, job.key) if job.key or job.memory != records.NO_KEY else None

    def _loaded(self, load: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return load(data)
        except Exception as error:
            if not is_failure(error):
                raise
            raise DeserializationError(
                f"{self.name}: serdes {self._serdes.name!r} cannot load a stored job ({told(error)}): {data[:60]!r}"
            ) from error

    def _sweep(self, now: float) -> int:
        """End the leases of processes that are dead, and of earlier boots; return how many."""
        self._opened.swept = now
        ended = 0
        known = {self._me(): False}
        for steps in self._opened.steps:
            for block in blocks(steps.shard, Span(records.LEASED, records.BEHIND_LEASED), values=True):
                keys = [key for key, data in block if steps.is_over(key, data, known)]
                if keys:
                    ended += int(steps.shard.transact(steps.end_leases, keys))
        return ended

    def _looks(self, seconds: float) -> Iterator[None]:
        """Yield, for so many seconds, whenever something has changed or its time has come; sleep between."""
        end = time.monotonic() + seconds
        pause, longest = _PAUSE
        seen, until = None, -inf
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
            versions = [steps.shard.version() for steps in self._opened.steps]
            if versions != seen or time.monotonic() >= until:
                seen = versions  # as it was before it is looked at
                yield
                until = time.monotonic() + min(_SWEEP_IDLE, *(steps.due() for steps in self._opened.steps))

    # The whole queue

    def counts(self) -> Counts:
        """Return how many jobs are in each state.

        O(s + k) for k jobs that are leased, or whose delay is over. Not atomic: while others work, a job that goes from
        one state to another may be counted in either.

        :returns: a :class:`rack.jobs.job.Counts`: ``waiting``, ``delayed``, ``leased``, ``done``, ``failed``.
        :raises NotOpenError: the queue is not open.

        >>> with PersistentQueue(tmp / "counts") as jobs:
        ...     jobs.put("now"), jobs.put("tomorrow", delay=86400)
        ...     jobs.counts()
        (True, True)
        Counts(waiting=1, delayed=1, leased=0, done=0, failed=0)
        """
        return counted(self._store.shards)

    def __len__(self) -> int:
        """Return how many jobs are still to be done: waiting, delayed or leased. O(s). Atomic for each shard."""
        return to_be_done(self._store.shards)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until no job is left to be done: each is done or has failed.

        O(s) each time that something changes. Not atomic: jobs may be put meanwhile.

        :param timeout: how many seconds to wait at most; None: as long as it takes.
        :returns: True; False if there still were jobs when the time was over.
        :raises ValueError: ``timeout`` is negative.

        >>> with PersistentQueue(tmp / "join") as jobs:
        ...     jobs.join(), jobs.put("page 1"), jobs.join(timeout=0.1)
        (True, True, False)
        """
        seconds = inf if timeout is None else duration("timeout", timeout)
        return not len(self) or any(not len(self) for _ in self._looks(seconds))

    def peek(self, most: int = 1) -> list[T]:
        """Return the items that come next, in order, without claiming them.

        O(s k log n). Atomic for each shard. Here the order is exact over all shards. Of each group, it has one job.

        :param most: how many at most.
        :returns: a list of items.
        :raises DeserializationError: the serdes cannot read an item.
        :raises ValueError: ``most`` is negative.

        >>> with PersistentQueue(tmp / "peek", shards=1) as jobs:
        ...     jobs.put_many("ab"), jobs.put("first", priority=1)
        ...     jobs.peek(2)
        (2, True)
        ['first', 'a']
        """
        most = whole("most", most, 0)
        found = sorted((job for steps in self._opened.steps for job in steps.first(most)), key=lambda job: job.order)
        return [self._item(job) for job in found[:most]]

    def failed(self) -> Iterator[FailedJob[T]]:
        """Iterate over the jobs that have failed for good. O(k).

        Not atomic: it reads in blocks, so the loop may change the queue.

        :yields: :class:`rack.jobs.job.FailedJob` objects: ``item``, ``key``, ``claims``, ``reason``.
        :raises DeserializationError: the serdes cannot read an item.

        >>> with PersistentQueue(tmp / "of_failed", max_claims=1) as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().release()
        ...     next(jobs.failed()).reason
        True
        'was released, and was claimed 1 times'
        """
        for steps in self._opened.steps:
            for block in blocks(steps.shard, Span(records.FAILED, records.GROUP), values=True):
                for key, data in block:
                    reason, job = records.unpack_failed(data, key[-records.TAIL :])
                    yield FailedJob(self._item(job), self._key(job), job.claims, reason)

    def retry_failed(self) -> int:
        """Have all jobs that have failed wait again, as if they had never been claimed. O(k log n).

        Not atomic as a whole; atomic for each block of a shard.

        :returns: how many they are.
        :raises ReadOnlyError: the queue was opened with ``flag="r"``.

        >>> with PersistentQueue(tmp / "retry") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.claim().fail("503")
        ...     jobs.retry_failed(), jobs.claim().claims
        True
        (1, 1)
        """
        retried = 0
        for steps in self._opened.steps:
            for keys in blocks(steps.shard, Span(records.FAILED, records.GROUP), values=False):
                if keys:
                    retried += steps.shard.transact(steps.retry, keys)
        return retried

    def clear(self) -> None:
        """Remove everything: all jobs, whatever their state is, all keys that are remembered, and all counts.

        O(n). Atomic for each shard, not as a whole. Who works on a job gets LeaseLostError.

        :raises ReadOnlyError: the queue was opened with ``flag="r"``.

        >>> with PersistentQueue(tmp / "clear") as jobs:
        ...     jobs.put("page 1")
        ...     jobs.clear()
        ...     len(jobs), jobs.put("page 1")
        True
        (0, True)
        """
        self._store.clear()

    def copy(
        self,
        name: str | PathLike[str],
        *,
        shards: int | None = None,
        engine: str | None = None,
        durability: str | None = None,
    ) -> PersistentQueue[T]:
        """Make a queue at another path that has all jobs of this one, as they are at one instant.

        O(n). Atomic: the copy is there as a whole or not at all. What is leased is leased in the copy, too. A queue on
        a server has no instants: there each shard is as it was at a moment of its own, and so is each job.

        :param name: where the files of the copy will be. The directory must exist.
        :param shards: how many shards it has; None: as many as this one.
        :param engine: its engine; None: that of this one.
        :param durability: its durability; None: that of this one.
        :returns: the copy, opened, to be closed.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreFullError: no space.

        >>> with PersistentQueue(tmp / "copied") as jobs:
        ...     jobs.put("page 1")
        ...     with jobs.copy(tmp / "copy", shards=1) as copy:
        ...         copy.peek()
        True
        ['page 1']
        """
        given = {"shards": shards, "engine": engine, "durability": durability}
        options = {name: value for name, value in given.items() if value is not None}
        made: PersistentQueue[T]
        if self._store.clock is not None:
            with importing():
                from rack.store.served import steady

            live = self._store.shards
            made = self._derived(name, lambda made: made._store.put_all(steady(live)), **options)
            return made
        with self.snapshot() as then:
            made = self._derived(name, lambda made: made._store.put_all(then._store.all_pairs()), **options)
        return made
