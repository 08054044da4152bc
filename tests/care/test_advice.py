"""The advice that ``rack.stat`` gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import rack
from rack.care.advice import advice
from rack.care.stat import OldestSnapshot, Stat, User
from rack.care.words import duration, size
from tests.care.test_stat import path as path
from tests.support.processes import engine as engine


def advised(stat: Stat, **changes: Any) -> str:
    return "\n".join(advice(replace(stat, **changes), False))


def test_advice_names_what_to_do(path: Path) -> None:
    stat = rack.stat(path)
    assert advised(stat) == ""
    assert advised(stat, bytes_data=100 << 20, bytes_free=60 << 20) == (
        f"60 % of the files is free space: rack compact {path}"
    )
    assert advised(stat, bytes_data=100 << 20, bytes_free=30 << 20) == ""
    assert advised(stat, bytes_data=100_000, bytes_free=90_000) == "", "it is not worth it"
    heavy = replace(stat.largest_shard, number=1, entries=9000)
    assert f"rack reshard {path} 4" in advised(stat, entries=10_000, largest_shard=heavy)
    assert advised(stat, entries=10_000, largest_shard=replace(heavy, entries=5400)) == ""
    assert "12 dead readers keep space" in advised(stat, dead_readers=tuple(range(12)))
    spaced = replace(stat, name="my store")
    assert "rack compact 'my store'" in advised(spaced, bytes_data=100 << 20, bytes_free=60 << 20)


def test_a_snapshot_that_holds_much_is_advice(path: Path) -> None:
    held = OldestSnapshot(shard=1, pids=(4711,), behind=9, bytes_held=2_100_000_000, age_at_most=3 * 3600)
    users = (User(4711, "python crawl.py", "write", None),)
    said = advised(rack.stat(path), oldest_snapshot=held, processes=users)
    assert "process 4711 (python crawl.py) holds 2.1 GB of space, for 3 h at most" in said
    assert advised(rack.stat(path), oldest_snapshot=replace(held, bytes_held=1000)) == ""


def test_sizes_and_times_are_in_words() -> None:
    assert [size(count) for count in (0, 1, 999, 1000, 2_100_000, 5_000_000_000_000)] == [
        *("0 bytes", "1 byte", "999 bytes", "1.0 kB", "2.1 MB", "5,000.0 GB")
    ]
    assert [duration(seconds) for seconds in (-1, 59, 150, 7300, 180_000)] == ["0 s", "59 s", "2 min", "2 h", "2 days"]
