"""What is timed: what fills the store beforehand, the loop, and a check of the answer."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import ClassVar

from bench.data import Scale, pairs, urls
from bench.rival import Kind, Rival
from bench.rivals import contestants, rack_by_shards

SHARD_COUNTS = (1, 8, 16, 32)


class WrongAnswer(Exception):
    """A contestant did not do the work."""


def check(got: int, expected: int, what: str) -> None:
    """Raise :class:`WrongAnswer` unless the two are equal."""
    if got != expected:
        raise WrongAnswer(f"{got:,} {what} instead of {expected:,}")


class Workload(ABC):
    """One benchmark. An instance holds its data for one contestant's share of the operations."""

    name: ClassVar[str]
    kind: ClassVar[Kind] = "dict"
    fresh: ClassVar[bool] = True  # a new store every round; False: filled once, only read
    processes: ClassVar[int] = 0  # writer processes; 0: in this one

    def __init__(self, scale: Scale, seed: int, worker: int = 0) -> None:
        self.scale = scale
        self.seed = seed
        self.worker = worker  # number of this writer process

    @property
    @abstractmethod
    def title(self) -> str:
        """What it does, in one line."""

    def rivals(self) -> list[Rival]:
        """Who takes part; the first is what the others are compared with."""
        return contestants()

    def ops(self, share: float) -> int:
        """Operations that are timed, for a contestant with this share."""
        return max(int(self.scale.ops * share), 200)

    def capacity(self, ops: int) -> int:
        """Entries that the store will hold at most."""
        return ops + 100

    def prepare(self, rival: Rival, ops: int) -> None:
        """Fill the new store; not timed. Nothing by default."""
        return

    @abstractmethod
    def warm(self, rival: Rival, ops: int) -> None:
        """Touch what the loop will use (connections, statements, pages), and build the data; not timed."""

    @abstractmethod
    def run(self, rival: Rival) -> int:
        """The part that is timed."""

    @abstractmethod
    def verify(self, rival: Rival, answer: int) -> None:
        """Raise :class:`WrongAnswer` if the work was not done."""


class Set(Workload):
    """`d[key] = value` of new keys."""

    name = "set"

    @property
    def title(self) -> str:
        return "set: d[key] = value, new keys into a new store, one commit each"

    def warm(self, rival: Rival, ops: int) -> None:
        rival.set(pairs(64, self.seed, 9))
        self.data = pairs(ops, self.seed, 1)

    def run(self, rival: Rival) -> int:
        rival.set(self.data)
        return 0

    def verify(self, rival: Rival, answer: int) -> None:
        check(rival.count(), 64 + len(self.data), "entries")


class Get(Workload):
    """`d[key]` of keys that are there."""

    name = "get"
    fresh = False

    @property
    def title(self) -> str:
        return f"get: d[key], present keys in random order, from {self.scale.population:,}"

    def capacity(self, ops: int) -> int:
        return self.scale.population

    def prepare(self, rival: Rival, ops: int) -> None:
        rival.update(pairs(self.scale.population, self.seed, 1))

    def warm(self, rival: Rival, ops: int) -> None:
        chosen = random.Random(self.seed).choices(pairs(self.scale.population, self.seed, 1), k=ops)
        self.data = [key for key, _ in chosen]
        self.expected = chosen[-1][1]
        rival.get(self.data[:500])

    def run(self, rival: Rival) -> int:
        return int(rival.get(self.data))

    def verify(self, rival: Rival, answer: int) -> None:
        check(answer, self.expected, "as a value")


class In(Get):
    """`key in d`, half of them there."""

    name = "in"

    @property
    def title(self) -> str:
        return f"in: key in d, half present, random order, from {self.scale.population:,}"

    def warm(self, rival: Rival, ops: int) -> None:
        rng = random.Random(self.seed)
        self.data = rng.choices(urls(self.scale.population, self.seed, 1), k=ops // 2)
        self.data += rng.choices(urls(self.scale.population, self.seed, 2), k=ops - ops // 2)
        rng.shuffle(self.data)
        present = set(urls(self.scale.population, self.seed, 1))
        self.expected = sum(key in present for key in self.data)
        rival.contains(self.data[:500])

    def run(self, rival: Rival) -> int:
        return rival.contains(self.data)

    def verify(self, rival: Rival, answer: int) -> None:
        check(answer, self.expected, "found")


class Add(Workload):
    """Add to a set, half of them new."""

    name = "add"
    kind = "set"

    @property
    def title(self) -> str:
        return "add: add the key if it is absent and know which, half new"

    def prepare(self, rival: Rival, ops: int) -> None:
        if rival.name == "Rack":
            rival.add(urls(ops // 2, self.seed, 1))
        else:
            rival.update([(key, 1) for key in urls(ops // 2, self.seed, 1)])

    def warm(self, rival: Rival, ops: int) -> None:
        self.data = urls(ops // 2, self.seed, 1) + urls(ops - ops // 2, self.seed, 2)
        random.Random(self.seed).shuffle(self.data)
        rival.add(urls(64, self.seed, 9))

    def run(self, rival: Rival) -> int:
        return rival.add(self.data)

    def verify(self, rival: Rival, answer: int) -> None:
        check(answer, len(self.data) - len(self.data) // 2, "new")


class Update(Workload):
    """Many at once into a new store."""

    name = "update"

    @property
    def title(self) -> str:
        return "update: many pairs at once into a new store, each library's best way"

    def ops(self, share: float) -> int:
        return self.scale.bulk if share == 1 else self.scale.slow_bulk

    def warm(self, rival: Rival, ops: int) -> None:
        self.data = pairs(ops, self.seed, 1)

    def run(self, rival: Rival) -> int:
        rival.update(self.data)
        return 0

    def verify(self, rival: Rival, answer: int) -> None:
        check(rival.count(), len(self.data), "entries")


class Items(Update):
    """All keys with their values."""

    name = "items"
    fresh = False
    values: ClassVar[bool] = True

    @property
    def title(self) -> str:
        return "items: for key, value in d.items()"

    def prepare(self, rival: Rival, ops: int) -> None:
        rival.update(pairs(ops, self.seed, 1))

    def warm(self, rival: Rival, ops: int) -> None:
        self.expected = ops

    def run(self, rival: Rival) -> int:
        return rival.iterate(self.values)

    def verify(self, rival: Rival, answer: int) -> None:
        check(answer, self.expected, "items")


class Keys(Items):
    """All keys."""

    name = "keys"
    values = False

    @property
    def title(self) -> str:
        return "keys: for key in d"


class Writers(Workload):
    """Several processes set different keys in one store; from a barrier to the last one's end."""

    @property
    def title(self) -> str:
        many = f"{self.processes} processes set" if self.processes > 1 else "1 process sets"
        return f"{self.name}: {many} different keys in one store"

    def ops(self, share: float) -> int:
        return max(int(self.scale.writer_ops * share), 200) * self.processes

    def warm(self, rival: Rival, ops: int) -> None:
        """In a worker: its own part of the keys."""
        rival.set(pairs(64, self.seed, 100 + self.worker))
        self.data = pairs(ops // self.processes, self.seed, 10 + self.worker)

    def run(self, rival: Rival) -> int:
        rival.set(self.data)
        return 0

    def verify(self, rival: Rival, answer: int) -> None:
        """In the parent, when all are done: `answer` is the number of sets that all of them did."""
        check(rival.count(), answer + 64 * self.processes, "entries")


class Writers1(Writers):
    """One writer, for comparison."""

    name = "writers-1"
    processes = 1


class Writers2(Writers):
    """Two writers."""

    name = "writers-2"
    processes = 2


class Writers4(Writers):
    """Four writers."""

    name = "writers-4"
    processes = 4


class Writers8(Writers):
    """Eight writers."""

    name = "writers-8"
    processes = 8


class Shards1(Writers1):
    """The default number of shards against others, one writer."""

    name = "shards-1"

    def rivals(self) -> list[Rival]:
        return rack_by_shards(SHARD_COUNTS)


class Shards4(Writers4):
    """The default number of shards against others, four writers."""

    name = "shards-4"

    def rivals(self) -> list[Rival]:
        return rack_by_shards(SHARD_COUNTS)


WORKLOADS: list[type[Workload]] = [
    *(Set, Get, In, Add, Update, Items, Keys),
    *(Writers1, Writers2, Writers4, Writers8),
    *(Shards1, Shards4),
]
