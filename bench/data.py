"""Seeded keys and values, and how many of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from bench.rival import Pairs

TEXT = """
archive article blog catalog city data debate election film forum garden health history index item library market music
news notes open paper people photo post press product review science shop sport story study tag team travel video week
"""
WORDS = TEXT.split()


@lru_cache(maxsize=32)
def urls(count: int, seed: int, stream: int) -> list[str]:
    """`count` different URLs of 50 to 90 characters; two streams have none in common."""
    rng = random.Random(f"{seed}/{stream}")
    pick = rng.choice
    return [
        f"https://www.{pick(WORDS)}-{pick(WORDS)}.example/{pick(WORDS)}/{rng.randrange(2000, 2030)}/"
        f"{rng.randrange(1, 13):02d}/{pick(WORDS)}-{pick(WORDS)}-{stream}{number:07d}"
        for number in range(count)
    ]


def pairs(count: int, seed: int, stream: int) -> Pairs:
    """URLs with small integers."""
    rng = random.Random(f"{seed}/{stream}/values")
    return [(url, rng.randrange(1_000_000)) for url in urls(count, seed, stream)]


@dataclass(frozen=True)
class Scale:
    """How much work: operations of a fast contestant, entries to read from, size of a bulk, sets of one writer."""

    ops: int
    population: int
    bulk: int
    slow_bulk: int
    writer_ops: int
    rounds: int


FULL = Scale(ops=50_000, population=20_000, bulk=100_000, slow_bulk=20_000, writer_ops=20_000, rounds=5)
QUICK = Scale(ops=20_000, population=10_000, bulk=100_000, slow_bulk=10_000, writer_ops=5_000, rounds=3)
