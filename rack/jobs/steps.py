"""The steps of jobs from one state to the next, each inside one write transaction of their shard.

A job is in one state at every instant, whenever a process is killed: it waits, or waits until it is ready, or is leased
until a deadline, or has failed. What is done is but counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic_ns, time_ns
from typing import NamedTuple, Self

from rack.jobs import records
from rack.jobs.records import (
    ALIVE,
    BEHIND_WAITING,
    DELAYED,
    DONE,
    FORGOTTEN,
    GAVE_UP,
    LEASED,
    NO_KEY,
    REMEMBERED,
    WAITING,
    Counters,
    Job,
)
from rack.shard.base import Pair, Shard, View
from rack.system.processes import Identity, is_dead

_OFTEN = 10_000_000  # nanoseconds between two looks for jobs to be moved, while others wait
_MOST = 1000  # jobs that are moved beside a claim: it is not to take long


class Claimed(NamedTuple):
    """A job that is leased; ``lease`` is the key of its record, which no other lease ever has."""

    lease: bytes
    job: Job

    @classmethod
    def of(cls, lease: bytes, data: bytes) -> Self:
        return cls(lease, Job.unpack(data, lease[-records.TAIL :]))


class Steps:
    """The steps of the jobs of one shard. Times are in nanoseconds; ``boot`` tells this boot of the system from others.

    Leases end by the clock that no one sets and that begins anew with each boot; where several machines share the
    store, by a ``clock`` of theirs, and ``boot`` is the same for all. ``pause`` and delays are by the time of day, so
    that they hold over a reboot.
    """

    def __init__(
        self,
        shard: Shard,
        counters: bytes,
        boot: bytes,
        max_claims: int | None,
        pause: int,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.shard = shard
        self._clock = clock or (lambda: monotonic_ns())
        self._counters = counters
        self._boot = boot
        self._max_claims = max_claims
        self._pause = pause
        self._moved = -_OFTEN  # when it was looked last, in vain, whether jobs are to be moved

    # What is looked at without a transaction

    def due(self) -> float:
        """Return in how many seconds a job can be claimed, as far as it is known: 0 now, inf never."""
        scan = self.shard.scan
        if scan(WAITING, BEHIND_WAITING, False, False, 1):
            return 0.0
        leases = LEASED + self._boot
        ends, delays = records.until(leases, _END), records.until(DELAYED, _END)
        left = [records.time_of(key, 9) - self._clock() for key in scan(leases, ends, False, False, 1)]
        left += [records.time_of(key) - time_ns() for key in scan(DELAYED, delays, False, False, 1)]
        return max(0, min(left)) / 1e9 if left else float("inf")

    def first(self, most: int) -> list[Job]:
        """Return the jobs that can be claimed, the first ones that wait and those whose delay is over."""
        spans = [records.lane_span(records.lane_name(lane)) for lane in self.lanes()]
        waiting = [pair for span in spans for pair in self.shard.scan(*span, False, True, most)]
        ready = self.shard.scan(DELAYED, records.until(DELAYED, time_ns()), False, True)
        return [Job.unpack(data, key[-records.TAIL :]) for key, data in (*waiting, *ready) if data]

    def lanes(self) -> Iterator[str]:
        """Yield the name of each lane with a job that can be claimed; "" for those that are in none."""
        start = WAITING
        while first := self.shard.scan(start, BEHIND_WAITING, False, True, 1):
            ((key, data),) = first
            job = Job.unpack(data, key[-records.TAIL :])
            yield job.lane
            start = records.lane_span(records.lane_name(job.lane))[1]

    def is_over(self, lease: bytes, data: bytes, known: dict[Identity, bool]) -> bool:
        """Return whether a lease has ended before its time. ``known``: which processes are dead, and which not."""
        if not lease.startswith(LEASED + self._boot):
            return True
        owner = records.owner_of(data)
        if owner not in known:
            known[owner] = is_dead(owner)
        return known[owner]

    # The steps

    def put(self, view: View, jobs: Iterable[Job], delay: int) -> list[bool]:
        """Put jobs, which become ready after ``delay``; return which of them are new."""
        counters = Counters(view.get(self._counters))
        answers = self._put(view, counters, jobs, time_ns(), delay)
        self._save(view, counters)
        return answers

    def remember(self, view: View, key_records: Iterable[bytes]) -> int:
        """Have keys be those of jobs that are done; return how many were not there."""
        new = [key_record for key_record in key_records if view.get(key_record) is None]
        for key_record in new:
            view.put(key_record, DONE)
        return len({*new})

    def turn(self, view: View, jobs: Iterable[Job], ended: Iterable[Claimed]) -> tuple[list[bool], list[bool]]:
        """Put jobs, and end others that are done. Return which ones are new, and which of the others were leased."""
        counters = Counters(view.get(self._counters))
        now = time_ns()
        answers = self._put(view, counters, jobs, now, 0)
        there = [self._done(view, counters, claimed, now) for claimed in ended]
        self._save(view, counters)
        return answers, there

    def claim(self, view: View, most: int, lease: int, owner: bytes) -> list[Pair]:
        """Lease the first jobs that wait, after those whose lease has ended or whose time has come joined them.

        Return the key of each lease, and the job, packed (see :meth:`Claimed.of`).
        """
        now, time = self._clock(), time_ns()
        waiting = view.first(WAITING, BEHIND_WAITING, most)
        if (len(waiting) < most or now - self._moved >= _OFTEN) and self._move(view, now, time):
            waiting = view.first(WAITING, BEHIND_WAITING, most)
        return self._leased(view, waiting, now + lease, owner, time)

    def claim_of(self, view: View, lanes: Mapping[bytes, int], lease: int, owner: bytes) -> list[Pair]:
        """Lease the first jobs of each of these lanes, so many of it; else like :meth:`claim`."""
        now, time = self._clock(), time_ns()
        if now - self._moved >= _OFTEN:
            self._move(view, now, time)
        waiting = [pair for lane, most in lanes.items() for pair in view.first(*records.lane_span(lane), most)]
        return self._leased(view, waiting, now + lease, owner, time)

    def _leased(self, view: View, waiting: list[Pair], deadline: int, owner: bytes, time: int) -> list[Pair]:
        claimed = []
        for key, data in waiting:
            job, claims, is_grouped = records.claimed_once_more(data)
            leased = records.lease_key(self._boot, deadline, claims, key)
            view.delete(key)
            view.put(leased, owner + job)
            if is_grouped:
                view.put(records.GROUP + key[-records.TAIL :], records.pack_group(True, time + self._pause))
            claimed.append((leased, job))
        return claimed

    # These return whether the lease was still there.

    def done(self, view: View, claimed: Claimed) -> bool:
        counters = Counters(view.get(self._counters))
        is_done = self._done(view, counters, claimed, time_ns())
        self._save(view, counters)
        return is_done

    def release(self, view: View, claimed: Claimed, delay: int, reason: str) -> bool:
        if not view.delete(claimed.lease):
            return False
        counters = Counters(view.get(self._counters))
        counters.jobs -= 1
        self._give_back(view, counters, claimed.job, time_ns(), delay, reason)
        self._save(view, counters)
        return True

    def fail(self, view: View, claimed: Claimed, reason: str) -> bool:
        if not view.delete(claimed.lease):
            return False
        counters = Counters(view.get(self._counters))
        counters.jobs -= 1
        self._give_up(view, counters, claimed.job, reason, time_ns())
        self._save(view, counters)
        return True

    def extend(self, view: View, claimed: Claimed, lease: int) -> Claimed | None:
        """Return the job with its new lease, which begins now; None if the old one was no longer there."""
        data = view.get(claimed.lease)
        if data is None:
            return None
        extended = Claimed(records.prolonged(claimed.lease, self._clock() + lease), claimed.job)
        view.delete(claimed.lease)
        view.put(extended.lease, data)
        return extended

    def end_leases(self, view: View, keys: list[bytes]) -> int:
        """End the leases with these keys; return how many there still were."""
        counters = Counters(view.get(self._counters))
        ended = sum(self._end_lease(view, counters, key, time_ns()) for key in keys)
        self._save(view, counters)
        return ended

    def retry(self, view: View, keys: list[bytes]) -> int:
        """Have the failed jobs with these keys wait again; return how many there still were."""
        counters = Counters(view.get(self._counters))
        now, retried = time_ns(), 0
        for key in keys:
            data = view.get(key)
            if data is None:
                continue
            view.delete(key)
            counters.failed -= 1
            counters.stamp = max(counters.stamp + 1, now)
            job = records.unpack_failed(data, key[-records.TAIL :])[1]._replace(claims=0, stamp=counters.stamp)
            if job.memory != NO_KEY:
                view.put(job.key_record, ALIVE)
            self._admit(view, counters, job, now, now)
            retried += 1
        self._save(view, counters)
        return retried

    # Parts of steps

    def _put(self, view: View, counters: Counters, jobs: Iterable[Job], now: int, delay: int) -> list[bool]:
        answers = []
        for job in jobs:
            if job.memory != NO_KEY:
                key_record = job.key_record
                state = view.get(key_record)
                if records.refuses(state, job.memory):
                    answers.append(False)
                    continue
                if state is not None and state[:1] == GAVE_UP:
                    counters.failed -= view.delete(state[1:])
                view.put(key_record, ALIVE)
            counters.stamp = max(counters.stamp + 1, now)
            priority, _, claims, memory, key, group, item, tail = job  # _replace takes longer
            stamped = Job(priority, counters.stamp, claims, memory, key, group, item, tail)
            self._admit(view, counters, stamped, now, now + delay)
            answers.append(True)
        return answers

    def _done(self, view: View, counters: Counters, claimed: Claimed, now: int) -> bool:
        job = claimed.job
        if not view.delete(claimed.lease):
            return False
        if job.memory == FORGOTTEN:
            view.delete(job.key_record)
        elif job.memory == REMEMBERED:
            view.put(job.key_record, DONE)
        counters.jobs -= 1
        counters.done += 1
        if job.group and job.is_grouped:
            self._leave(view, job.tail, now)
        return True

    def _move(self, view: View, now: int, time: int) -> bool:
        """Have jobs wait whose lease has ended or whose delay is over; return whether there are any."""
        leases = LEASED + self._boot
        ended = view.first(leases, records.until(leases, now), _MOST)
        due = view.first(DELAYED, records.until(DELAYED, time), _MOST)
        if not (ended or due):
            self._moved = now  # only then: else this may have to be repeated, with the whole transaction
            return False
        counters = Counters(view.get(self._counters))
        for key, _ in ended:
            self._end_lease(view, counters, key, time)
        for key, data in due:
            view.delete(key)
            if data:
                counters.delayed -= 1
                counters.jobs -= 1
                self._admit(view, counters, Job.unpack(data, key[-records.TAIL :]), time, time)
            else:
                self._go_on(view, key[-records.TAIL :], time)
        self._save(view, counters)
        return True

    def _save(self, view: View, counters: Counters) -> None:
        packed = counters.pack()
        if packed != counters.data:
            view.put(self._counters, packed)

    def _admit(self, view: View, counters: Counters, job: Job, now: int, ready: int) -> None:
        """Have a job wait until it is ready, or until it is claimed."""
        counters.jobs += 1
        if ready > now:
            view.put(job.delayed(ready), job.pack())
            counters.delayed += 1
            return
        if not job.is_grouped:
            view.put(job.waiting, job.pack())
            return
        view.put(job.grouped, job.pack())
        is_busy, _ = records.unpack_group(view.get(records.GROUP + job.tail))
        if not is_busy:
            self._go_on(view, job.tail, now)

    def _end_lease(self, view: View, counters: Counters, key: bytes, now: int) -> bool:
        data = view.get(key)
        if data is None:
            return False
        view.delete(key)
        counters.jobs -= 1
        job = records.unpack_lease(data, key[-records.TAIL :])
        self._give_back(view, counters, job, now, 0, f"was claimed {job.claims} times, and its lease ended each time")
        return True

    def _give_back(self, view: View, counters: Counters, job: Job, now: int, delay: int, reason: str) -> None:
        """Have a job that was leased wait again, unless it was claimed too often."""
        if self._max_claims is not None and job.claims >= self._max_claims:
            self._give_up(view, counters, job, reason, now)
            return
        self._admit(view, counters, job, now, now + delay)  # into its group, before the next one is chosen
        if job.group and job.is_grouped:
            self._leave(view, job.tail, now)

    def _give_up(self, view: View, counters: Counters, job: Job, reason: str, now: int) -> None:
        view.put(job.failed, records.pack_failed(reason, job))
        if job.memory != NO_KEY:
            view.put(job.key_record, GAVE_UP + job.failed)
        counters.failed += 1
        if job.group and job.is_grouped:
            self._leave(view, job.tail, now)

    # Groups: of each, one job at most is waiting or leased. The others wait in the group.

    def _leave(self, view: View, tail: bytes, now: int) -> None:
        """A job of a group is over."""
        _, ready = records.unpack_group(view.get(records.GROUP + tail))
        view.put(records.GROUP + tail, records.pack_group(False, ready))
        self._go_on(view, tail, now)

    def _go_on(self, view: View, tail: bytes, now: int) -> None:
        """Have the next job of a group, none of which is waiting or leased, wait to be claimed: now, or after a pause.

        A group without jobs is forgotten when its pause is over.
        """
        group = records.GROUP + tail
        _, ready = records.unpack_group(view.get(group))
        if ready > now:
            view.put(records.pause_key(ready, tail), b"")
            view.put(group, records.pack_group(True, ready))
            return
        within = records.GROUPED + tail
        first = view.first(within, within + b"\xff" * 13, 1)
        if not first:
            view.delete(group)
            return
        ((key, data),) = first
        view.delete(key)
        view.put(Job.unpack(data, tail).waiting, data)
        view.put(group, records.pack_group(True, ready))


_END = (1 << 63) - 1
