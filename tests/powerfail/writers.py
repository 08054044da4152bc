"""The processes that write to a store while power failures are recorded. Each has a number of its own, and a log.

Each writer has keys of its own, so that the order of what happened to a key is known from one log, and increments
counters that all share, which orders the writers' operations among each other. Its log has a line when an operation
begins and one when it is acknowledged, each with the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rack import PersistentDict
from rack.store.manifest import Manifest

KEYS = 40  # of a writer, to be overwritten; others are new
COUNTERS = 6

# What a value is: who wrote it, in which operation, which one in that, and of how many bytes.
Tag = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the writers do."""

    name: str  # of the store
    logs: str
    engine: str
    durability: str
    seed: int
    shards: int = 2
    writers: int = 3
    checkpoint_pages: int = 60  # SQLite: a small log, so that it is moved into the database often
    rotate_at: int = 300_000  # bytes; LMDB, "everysec": so that journals end and bases are made often
    busy: float = 0.5  # share of operations that follow the one before at once; others wait some milliseconds
    same_size: bool = False  # only overwrite values by others as long
    keeper: float = 1.0  # seconds after which its thread looks again, with "everysec"
    unsynced: bool = False  # break the promise: have nothing synced, though it is said
    roles: tuple[str, ...] = ()  # processes beside the writers, see tests/powerfail/roles.py
    boot: str = ""  # under which the system runs, if not under that of today
    first: int = 0  # number of the first process
    bases: str = ""  # LMDB, "everysec": how bases are made: "slow", or on a disk that is "full" sometimes

    @property
    def may_kill_all(self) -> bool:
        """Whether the first process may be killed: not if it does what has to be done as a whole, or has to last."""
        return bool(self.roles) and self.roles[0] not in ("replacing", "quiet")

    def dump(self) -> str:
        return json.dumps(asdict(self))


@lru_cache(4096)
def value(writer: int, operation: int, number: int, size: int) -> bytes:
    """Return the value of a tag. Different ones differ in each piece of 30 bytes."""
    mark = b"%d.%d.%d;" % (writer, operation, number)
    return (mark * (size // len(mark) + 1))[:size]


def key(writer: int, number: int) -> str:
    """Return a key: keys of different writers lie beside each other, and some are longer than LMDB's may be."""
    name = f"{writer}.{number}"
    spread = zlib.crc32(name.encode())
    pad = 600 if spread % 12 == 0 else spread % 90
    return f"{spread % 997:03}/{name}/" + "x" * pad


def counter(generation: int, number: int) -> str:
    return f"{number * 199:03}/counter/{generation}"


class Log:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.operations = 0

    def write(self, *words: object) -> None:
        os.write(self._fd, (json.dumps(words) + "\n").encode())

    def write_end(self) -> None:
        """Say that the process is no more, behind a line that may be torn."""
        os.write(self._fd, b"\n")
        self.write("gone", time.monotonic())


class Writer:
    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._gate = os.open(Path(plan.logs).parent / "gate", os.O_RDWR | os.O_CREAT)
        self._be(number)
        self._store: PersistentDict[str, Any]
        kinds: list[tuple[Callable[[], None], ...]] = [
            (self._set_same_size,),
            (self._set, self._set, self._delete, self._add, self._transform, self._incr, self._set_new, self._fail),
            (self._update, self._batch, self._delete_many, self._incr, self._update_same),
            (self._set_large, self._delete, self._set),
        ]
        self._kinds = kinds[0] if plan.same_size else self._rng.choice(kinds) if number else kinds[1]

    def _be(self, number: int) -> None:
        """Have a number and a log of its own."""
        self._number = number
        self._rng = random.Random(f"{self._plan.seed} {number}")
        self._log = Log(Path(self._plan.logs, str(number)))
        self._log.write("process", os.getpid())
        self._new_keys = KEYS

    def run(self) -> None:
        rng = self._rng
        while True:
            self._open()
            for _ in range(int(2 ** rng.uniform(2, 10))):
                kind = rng.random()
                if kind < 0.004 and self._number == 0:  # it is never killed
                    with self._alone(fcntl.LOCK_EX):
                        generation = self._generation()
                        os.pwrite(self._gate, b"%8d" % (generation + 1), 0)
                        self._do("clear", {}, self._store.clear)
                elif kind < 0.01:
                    self._sync()
                else:
                    with self._alone(fcntl.LOCK_SH):
                        rng.choice(self._kinds)()
                if rng.random() > self._plan.busy:
                    time.sleep(0.004 * rng.random())
            self._close()
            time.sleep(rng.choice([0, 0.02, 0.1]) * rng.random())

    def _open(self, flag: str = "c", durability: str = "") -> None:
        plan = self._plan
        durability = durability or plan.durability
        options: dict[str, Any] = {} if flag == "r" else {"durability": durability}
        if flag == "c":
            options |= {"engine": plan.engine, "shards": plan.shards}
        store: PersistentDict[str, Any] = PersistentDict(plan.name, flag=flag, key_serdes="str", **options)
        with self._alone(fcntl.LOCK_SH):
            self._store = store.open()
            self._note_opening(flag, durability)

    def _note_opening(self, flag: str, durability: str) -> None:
        found = Manifest.read(self._plan.name)
        self._log.write("opened", time.monotonic(), found and found.id, flag, durability)

    def _sync(self) -> None:
        self._do("sync", {}, self._store.sync)

    def _close(self) -> None:
        self._do("close", {}, self._store.close)

    @contextlib.contextmanager
    def _alone(self, kind: int) -> Iterator[None]:
        """Nothing else is done while a store is cleared."""
        fcntl.flock(self._gate, kind)
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _generation(self) -> int:
        """Return how often the store was cleared."""
        return int(os.pread(self._gate, 8, 0) or 0)

    def _do(self, kind: str, effects: dict[str, Tag | None], action: Callable[[], Any], *more: object) -> Any:
        """Do something that has these effects, if it answers anything but False."""
        self._log.operations += 1
        self._log.write("begin", self._log.operations, time.monotonic(), kind, effects, *more)
        answer = action()
        self._log.write("end", self._log.operations, time.monotonic(), answer)
        return answer

    def _tag(self, size: int, number: int = 0) -> Tag:
        return self._number, self._log.operations + 1, number, size

    def _size(self) -> int:
        return self._rng.choice([1, 20, 20, 100, 100, 600, 1800, 4000, 9000])

    def _key(self) -> str:
        return key(self._number, self._rng.randrange(KEYS))

    # Operations

    def _put(self, name: str, size: int) -> None:
        tag = self._tag(size)
        self._do("set", {name: tag}, lambda: self._store.__setitem__(name, value(*tag)))

    def _set(self) -> None:
        self._put(self._key(), self._size())

    def _set_same_size(self) -> None:
        # Trees keep their form: a page of yesterday would be a page like any other.
        name = key(self._number, self._rng.randrange(10 * KEYS))
        self._put(name, 30 + zlib.crc32(name.encode()) % 50)

    def _set_new(self) -> None:
        self._new_keys += 1
        self._put(key(self._number, self._new_keys), self._size())

    def _set_large(self) -> None:
        self._put(self._key(), int(2 ** self._rng.uniform(10, 16.6)))

    def _delete(self) -> None:
        name = self._key()
        self._do("delete", {name: None}, lambda: self._store.pop(name, None) is not None)

    def _delete_many(self) -> None:
        names = {key(self._number, self._rng.randrange(self._new_keys + 1)) for _ in range(self._rng.randrange(40))}
        self._do("delete_many", dict.fromkeys(names), lambda: self._store.delete_many(names))

    def _add(self) -> None:
        name, tag = self._key(), self._tag(self._size())
        self._do("add", {name: tag}, lambda: self._store.add(name, value(*tag)))

    def _transform(self) -> None:
        name, tag = self._key(), self._tag(self._size())
        self._do("transform", {name: tag}, lambda: self._store.transform(name, lambda old: value(*tag)) and None)

    def _incr(self) -> None:
        name = counter(self._generation(), self._rng.randrange(COUNTERS))
        self._do("incr", {}, lambda: self._store.incr(name), name)

    def _many(self) -> dict[str, Tag]:
        count = int(2 ** self._rng.uniform(0, 8))
        first = self._new_keys
        self._new_keys += count
        return {key(self._number, first + n): self._tag(self._size() % 1000 + 1, n) for n in range(count)}

    def _update(self) -> None:
        self._put_many(self._many())

    def _update_same(self) -> None:
        self._put_many({key(self._number, n): self._tag(60, n) for n in self._rng.sample(range(KEYS), 20)})

    def _put_many(self, tags: dict[str, Tag]) -> None:
        self._do("update", dict(tags), lambda: self._store.update((name, value(*tag)) for name, tag in tags.items()))

    def _batch(self) -> None:
        tags = self._many()

        def put() -> None:
            with self._store.batch() as batch:
                for name, tag in tags.items():
                    batch[name] = value(*tag)

        self._do("batch", dict(tags), put)

    def _fail(self) -> None:
        """Have an operation raise in the middle: it has no effect."""
        name = self._key()

        def fail() -> None:
            with contextlib.suppress(TypeError, ZeroDivisionError):
                if self._rng.random() < 0.5:
                    self._store.incr(name, "1")  # to bytes or to 0: a TypeError
                else:
                    self._store.transform(name, lambda old: 1 // 0)

        self._do("fail", {}, fail)
