"""What is timed: what fills the store beforehand, the loop, and a check of the answers."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

from bench.data import Scale, pairs, urls
from bench.rival import Kind, Rival
from bench.rivals import HandSharded, contestants, rack_by_shards

SHARD_COUNTS = (1, 8, 16, 32)


class WrongAnswer(Exception):
    """A contestant did not do the work."""


def check(got: object, expected: object, what: str) -> None:
    """Raise :class:`WrongAnswer` unless the two are equal."""
    if got != expected:
        raise WrongAnswer(f"{what}: {got!r} instead of {expected!r}")


class Workload(ABC):
    """One benchmark. The work of a contestant is a list, of which :meth:`run` does a part at a time."""

    name: ClassVar[str]
    kind: ClassVar[Kind] = "dict"
    fresh: ClassVar[bool] = True  # a new store every round; False: filled once, only read
    turns: ClassVar[int] = 1  # the contestants take turns that often in a round
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
    def work(self, ops: int) -> list[Any]:
        """The operands of `ops` operations."""

    def parts(self, work: list[Any]) -> list[list[Any]]:
        """The work, cut into as many parts as there are turns."""
        cuts = [len(work) * turn // self.turns for turn in range(self.turns + 1)]
        return [work[start:end] for start, end in pairwise(cuts)]

    @abstractmethod
    def warm(self, rival: Rival) -> None:
        """Touch what the loop will use (connections, statements, pages); not timed."""

    @abstractmethod
    def run(self, rival: Rival, part: list[Any]) -> Any:
        """The part that is timed."""

    @abstractmethod
    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        """Raise :class:`WrongAnswer` if the work was not done. `answers`: what :meth:`run` returned for each part."""


class Apart(Workload):
    """A benchmark with rounds of its own (``contest``), in which each contestant has a process to itself."""

    def work(self, ops: int) -> list[Any]:
        return []

    def warm(self, rival: Any) -> None:
        pass

    def run(self, rival: Any, part: list[Any]) -> Any:
        pass

    def verify(self, rival: Any, work: list[Any], answers: list[Any]) -> None:
        pass


class Set(Workload):
    """`d[key] = value` of new keys."""

    name = "set"
    turns = 10

    @property
    def title(self) -> str:
        return "set: d[key] = value, new keys into a new store, one commit each"

    def work(self, ops: int) -> list[Any]:
        return pairs(ops, self.seed, 1)

    def warm(self, rival: Rival) -> None:
        rival.set(pairs(64, self.seed, 9))

    def run(self, rival: Rival, part: list[Any]) -> Any:
        rival.set(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(rival.count(), 64 + len(work), "entries")


class Get(Workload):
    """`d[key]` of keys that are there."""

    name = "get"
    fresh = False
    turns = 10

    @property
    def title(self) -> str:
        return f"get: d[key], present keys in random order, from {self.scale.population:,}"

    def capacity(self, ops: int) -> int:
        return self.scale.population

    def prepare(self, rival: Rival, ops: int) -> None:
        rival.update(pairs(self.scale.population, self.seed, 1))

    def work(self, ops: int) -> list[Any]:
        return random.Random(self.seed).choices(urls(self.scale.population, self.seed, 1), k=ops)

    def warm(self, rival: Rival) -> None:
        rival.get(self.work(500))

    def run(self, rival: Rival, part: list[Any]) -> Any:
        return rival.get(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        values = dict(pairs(self.scale.population, self.seed, 1))
        check(answers[-1], values[work[-1]], "the last value")


class In(Get):
    """`key in d`, half of them there."""

    name = "in"

    @property
    def title(self) -> str:
        return f"in: key in d, half present, random order, from {self.scale.population:,}"

    def work(self, ops: int) -> list[Any]:
        rng = random.Random(self.seed)
        keys = rng.choices(urls(self.scale.population, self.seed, 1), k=ops // 2)
        keys += rng.choices(urls(self.scale.population, self.seed, 2), k=ops - ops // 2)
        rng.shuffle(keys)
        return keys

    def warm(self, rival: Rival) -> None:
        rival.contains(self.work(500))

    def run(self, rival: Rival, part: list[Any]) -> Any:
        return rival.contains(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(sum(answers), len(work) // 2, "found")


class Add(Workload):
    """Add to a set, half of them new."""

    name = "add"
    kind = "set"
    turns = 10

    @property
    def title(self) -> str:
        return "add: add the key if it is absent and know which, half new"

    def prepare(self, rival: Rival, ops: int) -> None:
        rival.add(urls(ops // 2, self.seed, 1))

    def work(self, ops: int) -> list[Any]:
        keys = urls(ops // 2, self.seed, 1) + urls(ops - ops // 2, self.seed, 2)
        random.Random(self.seed).shuffle(keys)
        return keys

    def warm(self, rival: Rival) -> None:
        rival.add(urls(64, self.seed, 9))

    def run(self, rival: Rival, part: list[Any]) -> Any:
        return rival.add(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(sum(answers), len(work) - len(work) // 2, "new")


class Update(Workload):
    """Many at once into a new store."""

    name = "update"

    def rivals(self) -> list[Rival]:
        first, *others = contestants()
        return [first, HandSharded(), *others]

    @property
    def title(self) -> str:
        return "update: many pairs at once into a new store, each library's best way"

    def ops(self, share: float) -> int:
        return self.scale.bulk if share == 1 else self.scale.slow_bulk

    def work(self, ops: int) -> list[Any]:
        return pairs(ops, self.seed, 1)

    def warm(self, rival: Rival) -> None:
        rival.count()

    def run(self, rival: Rival, part: list[Any]) -> Any:
        rival.update(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(rival.count(), len(work), "entries")


class Items(Update):
    """All keys with their values."""

    name = "items"
    fresh = False
    turns = 3
    values: ClassVar[bool] = True

    @property
    def title(self) -> str:
        return "items: for key, value in d.items()"

    def prepare(self, rival: Rival, ops: int) -> None:
        rival.update(pairs(ops, self.seed, 1))

    def parts(self, work: list[Any]) -> list[list[Any]]:
        """All of it in every turn."""
        return [work] * self.turns

    def run(self, rival: Rival, part: list[Any]) -> Any:
        return rival.iterate(self.values)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        check(answers, [len(work)] * self.turns, "seen")


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

    def work(self, ops: int) -> list[Any]:
        """This worker's own part of the keys."""
        return pairs(ops // self.processes, self.seed, 10 + self.worker)

    def warm(self, rival: Rival) -> None:
        rival.set(pairs(64, self.seed, 100 + self.worker))

    def run(self, rival: Rival, part: list[Any]) -> Any:
        rival.set(part)

    def verify(self, rival: Rival, work: list[Any], answers: list[Any]) -> None:
        """In the parent, when all are done."""
        check(rival.count(), (len(work) + 64) * self.processes, "entries")


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


class ShardsSet(Set):
    """The default number of shards against others: one process sets."""

    name = "shards-set"

    @property
    def title(self) -> str:
        return "shards-set: as set, by number of shards"

    def rivals(self) -> list[Rival]:
        return rack_by_shards(SHARD_COUNTS)


class ShardsGet(Get):
    """The default number of shards against others: one process gets."""

    name = "shards-get"

    @property
    def title(self) -> str:
        return "shards-get: as get, by number of shards"

    def rivals(self) -> list[Rival]:
        return rack_by_shards(SHARD_COUNTS)


class ShardsWriters(Writers4):
    """The default number of shards against others: four processes set."""

    name = "shards-writers"

    def rivals(self) -> list[Rival]:
        return rack_by_shards(SHARD_COUNTS)


WORKLOADS: list[type[Workload]] = [
    *(Set, Get, In, Add, Update, Items, Keys),
    *(Writers1, Writers2, Writers4, Writers8),
    *(ShardsSet, ShardsGet, ShardsWriters),
]
