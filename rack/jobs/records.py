"""What the records of a queue are, in bytes. DESIGN.rst ("Queue") has the table.

The first byte of a record's key says what it is. The last eight are the hash of the job's key (without one: random),
and the shard of the record (:mod:`rack.store.router`): so all records of a job are in one shard.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple, Self

from xxhash import xxh3_64_digest

from rack.system.arguments import text
from rack.system.processes import Identity

KEY, WAITING, DELAYED, LEASED, FAILED, COUNTERS = b"k", b"w", b"d", b"l", b"f", b"c"
DIGEST = b"h"  # of a key of which no record's key can be made
# A group, and its jobs that wait until the one before them is over. Of a group that pauses there is a record among the
# delayed jobs, which is empty.
GROUP, GROUPED = b"g", b"q"
LANED = b"x"  # a job of a lane that can be claimed: right behind those that wait and are in none
BEHIND_LEASED, BEHIND_WAITING = b"m", b"y"

#: What is remembered of a job's key when the job is done: nothing, as it has none; nothing; that it was there.
NO_KEY, FORGOTTEN, REMEMBERED = range(3)

# The state of a key: its job waits or is leased; is done; has failed, and then the key of its record follows.
ALIVE, DONE, GAVE_UP = b"", b"d", b"f"

LEAST_PRIORITY, MOST_PRIORITY = -(1 << 31), (1 << 31) - 1
_LONG = 500  # bytes: a key of LMDB has 511 at most
SHARED = b"\0" * 8  # in place of a boot's tag, where several machines share the store
TAIL = 8  # bytes at the end of each key
_STAMPED = 8 + TAIL  # stamp and tail
_TIME = struct.Struct(">Q")  # nanoseconds
_COUNTERS = struct.Struct(">Q4q")
_OWNER = struct.Struct(">IQQ")
_JOB = struct.Struct(">iQIBIH")  # priority, stamp, claims, memory, lengths of the key and of the group
_REASON = struct.Struct(">I")
_SIZES = {WAITING: 13, DELAYED: 17, LEASED: 29, FAILED: 9, COUNTERS: 1, GROUP: 1, GROUPED: 21, LANED: 21, DIGEST: 33}
_ORDER = struct.Struct(">IQ")
_OF_GROUP, _OF_LANE = b"\0", b"\1"  # before the name, which may be empty
_GROUP = struct.Struct(">?Q")


class Job(NamedTuple):
    """A job, whatever its state is. ``stamp`` is when it was put, or became ready: unique in its shard.

    ``group``: the name of its group or of its lane, as :func:`group_name` and :func:`lane_name` have it.
    """

    priority: int
    stamp: int
    claims: int
    memory: int
    key: bytes
    group: bytes
    item: bytes
    tail: bytes

    def pack(self) -> bytes:
        head = _JOB.pack(self.priority, self.stamp, self.claims, self.memory, len(self.key), len(self.group))
        return b"".join((head, self.key, self.group, self.item))

    @classmethod
    def unpack(cls, data: bytes, tail: bytes, at: int = 0) -> Self:
        """:raises ValueError: it is no job."""
        try:
            priority, stamp, claims, memory, key_size, group_size = _JOB.unpack_from(data, at)
        except struct.error:
            raise ValueError("cut short") from None
        at += _JOB.size
        middle, end = at + key_size, at + key_size + group_size
        if end > len(data) or memory > REMEMBERED:
            raise ValueError("cut short")
        return cls(priority, stamp, claims, memory, data[at:middle], data[middle:end], data[end:], tail)

    @property
    def key_record(self) -> bytes:
        return key_record(self.key, self.tail)

    # The keys of its records, in each state. Those that wait are in order: the highest priority first, then the oldest.

    @property
    def waiting(self) -> bytes:
        if self.group[:1] == _OF_LANE:
            return b"".join((LANED, xxh3_64_digest(self.group), self.order, self.tail))
        return WAITING + self.order + self.tail

    @property
    def grouped(self) -> bytes:
        return GROUPED + self.tail + self.order + self.tail

    @property
    def is_grouped(self) -> bool:
        return self.group[:1] == _OF_GROUP

    @property
    def lane(self) -> str:
        """The name of its lane; "": it is in none."""
        return self.group[1:].decode("utf-8", "surrogatepass") if self.group[:1] == _OF_LANE else ""

    @property
    def order(self) -> bytes:
        return _ORDER.pack(MOST_PRIORITY - self.priority, self.stamp)

    @property
    def failed(self) -> bytes:
        return FAILED + _TIME.pack(self.stamp) + self.tail

    def delayed(self, ready: int) -> bytes:
        return DELAYED + _TIME.pack(ready) + _TIME.pack(self.stamp) + self.tail


def key_record(key: bytes, tail: bytes) -> bytes:
    """Return the key of the record of a unique key."""
    return (DIGEST + sha256(key).digest() if len(key) > _LONG else KEY + key) + tail


def refuses(state: bytes | None, memory: int) -> bool:
    """Return whether a job cannot be put, as its key is in this state."""
    return state == ALIVE or (state is not None and memory == REMEMBERED)


class Counters:
    """How many jobs of a shard there are, and the last stamp. ``jobs``: those that wait, are delayed or leased.

    They are in one record of the shard. Once the number of shards was changed, a shard may have several, or count jobs
    that are in others: only the sum over all shards means anything.
    """

    __slots__ = ("data", "delayed", "done", "failed", "jobs", "stamp")

    def __init__(self, data: bytes | None = None) -> None:
        """:raises struct.error: that are no counters."""
        self.data = data
        self.stamp, self.jobs, self.delayed, self.done, self.failed = (
            (0, 0, 0, 0, 0) if data is None else _COUNTERS.unpack(data)
        )

    def pack(self) -> bytes:
        return _COUNTERS.pack(self.stamp, self.jobs, self.delayed, self.done, self.failed)


def counters_key(number: int, shards: int) -> bytes:
    """Return the key of the counters of a shard: its tail is the first that belongs there."""
    return COUNTERS + _TIME.pack(-(-(number << 64) // shards))


def group_name(group: str) -> bytes:
    return _OF_GROUP + text("group", group).encode("utf-8", "surrogatepass")


def lane_name(lane: str) -> bytes:
    """Return the name of a lane; nothing, of none."""
    return _OF_LANE + text("lane", lane).encode("utf-8", "surrogatepass") if lane != "" else b""


def lane_span(name: bytes) -> tuple[bytes, bytes]:
    """Return where the jobs of a lane that can be claimed begin, and where they end."""
    if not name:
        return WAITING, LANED
    start = LANED + xxh3_64_digest(name)
    return start, start + b"\xff" * (_ORDER.size + TAIL)


def pause_key(ready: int, tail: bytes) -> bytes:
    """Return the key of the record that says until when a group pauses."""
    return DELAYED + _TIME.pack(ready) + _TIME.pack(0) + tail


def pack_group(is_busy: bool, ready: int) -> bytes:
    """``is_busy``: one of its jobs is waiting or leased, or it pauses; ``ready``: when the next one may be claimed."""
    return _GROUP.pack(is_busy, ready)


def unpack_group(data: bytes | None) -> tuple[bool, int]:
    return (False, 0) if data is None else _GROUP.unpack(data)


def until(kind: bytes, time: int) -> bytes:
    """Return the end of the records of a kind that are due at a time, in nanoseconds."""
    return kind + _TIME.pack(time + 1)


def time_of(key: bytes, at: int = 1) -> int:
    """Return the time in the key of a delayed job; ``at`` 9: the deadline in that of a leased one."""
    return int(_TIME.unpack_from(key, at)[0])


def claimed_once_more(data: bytes) -> tuple[bytes, int, bool]:
    """Return a packed job with one claim more, how many that makes, and whether it is in a group."""
    claims = int.from_bytes(data[12:16], "big") + 1
    is_grouped = data[21:23] != b"\0\0" and data.startswith(_OF_GROUP, _JOB.size + int.from_bytes(data[17:21], "big"))
    return b"".join((data[:12], claims.to_bytes(4, "big"), data[16:])), claims, is_grouped


def lease_key(boot: bytes, deadline: int, claims: int, waiting: bytes) -> bytes:
    """Return the key of the lease of a job, which no other lease ever has, from the one it had while it waited."""
    return b"".join((LEASED, boot, _TIME.pack(deadline), claims.to_bytes(4, "big"), waiting[-_STAMPED:]))


def prolonged(lease: bytes, deadline: int) -> bytes:
    return lease[:9] + _TIME.pack(deadline) + lease[17:]


def pack_owner(owner: Identity) -> bytes:
    return _OWNER.pack(*owner)


def owner_of(data: bytes) -> Identity:
    return Identity(*_OWNER.unpack_from(data))


def unpack_lease(data: bytes, tail: bytes) -> Job:
    return Job.unpack(data, tail, _OWNER.size)


def pack_failed(reason: str, job: Job) -> bytes:
    told = reason.encode("utf-8", "backslashreplace")
    return _REASON.pack(len(told)) + told + job.pack()


def unpack_failed(data: bytes, tail: bytes) -> tuple[str, Job]:
    size = _REASON.unpack_from(data)[0] + _REASON.size
    return data[_REASON.size : size].decode(), Job.unpack(data, tail, size)


def problem_of(key: bytes, value: bytes) -> Job | str | None:
    """Return what is wrong with a record; the job that it has, if it has one, or None."""
    kind, tail = key[:1], key[-TAIL:]
    if (kind == KEY and len(key) > TAIL) or (kind == DIGEST and len(key) == _SIZES[DIGEST] + TAIL):
        is_right = value in (ALIVE, DONE) or (value[:1] == GAVE_UP and value[1:2] == FAILED and value[-TAIL:] == tail)
        return None if is_right else "is no state of a key"
    if len(key) != _SIZES.get(kind, -1) + TAIL:
        return "is no record of a queue"
    try:
        if kind == COUNTERS:
            Counters(value)
            return None
        if kind == GROUP:
            unpack_group(value)
            return None
        if kind == DELAYED and not value:
            return None
        if kind == LEASED:
            return unpack_lease(value, tail)
        return unpack_failed(value, tail)[1] if kind == FAILED else Job.unpack(value, tail)
    except (ValueError, struct.error) as error:
        return f"has a job that cannot be read ({error})"
