"""How a set of digests grows: ``python -m bench.growth --keys 100_000_000``.

Adds URLs to a set with ``key_serdes="digest"``, 20,000 at a time, as a crawl does. At each mark it prints how long the
last million took, how long a membership test takes, and how large the store is. Both times should grow with log n, as
B-trees do. The line through them is drawn on to what no machine here holds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from math import log2
from pathlib import Path
from statistics import linear_regression
from time import perf_counter

import click
from rich.console import Console
from rich.table import Table

from bench.runner import disk_usage
from rack import PersistentSet

BATCH = 20_000
WINDOW = 1_000_000  # keys, before a mark, that are timed
TESTS = 20_000
FAR = (10**9, 10**10)


def url(number: int) -> str:
    return f"https://example.org/{number * 7919 % 1_000_003}/page-{number}.html"


def marks(keys: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50 ... million, and ``keys``."""
    step = WINDOW
    while True:
        for factor in (1, 2, 5):
            if factor * step >= keys:
                yield keys
                return
            yield factor * step
        step *= 10


def add(store: PersistentSet[str], first: int, end: int) -> float:
    """Add the URLs of a range; return the seconds that the store took for it."""
    seconds = 0.0
    for at in range(first, end, BATCH):
        batch = [url(number) for number in range(at, min(at + BATCH, end))]
        began = perf_counter()
        store.update(batch)
        seconds += perf_counter() - began
    return seconds


def test(store: PersistentSet[str], count: int, rng: random.Random) -> float:
    """Return the seconds that membership tests took, half of them of what is there."""
    urls = [url(rng.randrange(2 * count)) for _ in range(TESTS)]
    began = perf_counter()
    found = sum(each in store for each in urls)
    seconds = perf_counter() - began
    assert abs(found - TESTS / 2) < TESTS / 10, f"{found} of {TESTS} were found, where about half are there"
    return seconds


@click.command()
@click.option("--keys", type=click.IntRange(min=2 * WINDOW), default=100_000_000, show_default=True)
@click.option("--dir", "base", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where it is put.")
@click.option("--durability", type=click.Choice(["process", "everysec"]), default="everysec", show_default=True)
def main(keys: int, base: Path | None, durability: str) -> None:
    """Add KEYS digests to one set, and print the curve. 100 million take 7 GB of disk."""
    console = Console(highlight=False)
    table = Table("keys", "add, µs", "in, µs", "bytes a key")
    rng = random.Random(1)
    sizes, adds, tests = [], [], []
    began = perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="rack-bench-", dir=base) as directory,
        PersistentSet[str](Path(directory) / "s", key_serdes="digest", durability=durability) as store,
    ):
        count = 0
        for mark in marks(keys):
            start = max(count, mark - WINDOW)
            add(store, count, start)
            adds.append(add(store, start, mark) / (mark - start) * 1e6)
            tests.append(test(store, mark, rng) / TESTS * 1e6)
            sizes.append(log2(mark))
            count = mark
            table.add_row(
                f"{mark:,}", f"{adds[-1]:.2f}", f"{tests[-1]:.2f}", f"{disk_usage(Path(directory)) / mark:.1f}"
            )
            console.print(f"{mark:,} keys after {perf_counter() - began:.0f} s", style="dim")
        assert len(store) == keys
    if len(sizes) > 1:
        lines = [linear_regression(sizes, times) for times in (adds, tests)]
        for far in FAR:
            values = [f"{line.slope * log2(far) + line.intercept:.2f}" for line in lines]
            table.add_row(f"{far:,}", *values, "on paper", style="italic")
    console.print(table)


if __name__ == "__main__":
    main()
