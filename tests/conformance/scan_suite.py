"""What every engine's shard promises about the order of keys and about scans; part of ``ShardSuite``."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rack.shard.base import BLOCK_ITEMS, Shard, is_last
from rack.shard.spans import ALL, BACKWARD, Reader
from tests.conformance.bench import HASHES, Bench
from tests.conformance.raw import RawEngine

EDGE_KEYS = [
    b"",
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"key",
    *(b"k" * size for size in (2, 255, 509, 510, 511, 512, 513, 600)),
    *(b"\0" * size for size in (475, 476, 510, 511, 512, 600)),
    *(b"\xff" * size for size in (1, 475, 509, 510, 511, 512, 600)),
    *(b"\xff" * 510 + end for end in (b"\0", b"\x01", b"\x02", b"\xfe", b"\x01\0", b"\x01\x01", b"\0\xff")),
    *(b"p" * 500 + end for end in (b"", b"\0", b"tail" * 2, b"tail" * 3, b"tail" * 4, b"\xff" * 12)),
]
# Bounds of ranges: keys, what is just before or behind one, and what is far from all.
EDGES = sorted(
    {*EDGE_KEYS, b"\x01", b"\x01\0", b"\x02", b"\xff" * 700, b"k" * 511 + b"\0", b"p" * 505, b"p", b"q"}
    | {key[:-1] + bytes([max(key[-1] - 1, 0)]) + b"\xff" for key in EDGE_KEYS if key}
    | {key + b"\0" for key in EDGE_KEYS}
)
both_hashes = pytest.mark.parametrize("bench", ["sha256", "constant"], indirect=True)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


class ScanSuite:
    engine: ClassVar[str]
    raw: ClassVar[RawEngine]
    durability: ClassVar[str] = "process"

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
        bench = Bench(self.engine, self.raw, tmp_path, HASHES[getattr(request, "param", "sha256")], self.durability)
        yield bench
        bench.finish()

    @both_hashes
    @both_ways
    @pytest.mark.parametrize("values", [False, True], ids=["keys", "pairs"])
    def test_a_scan_of_any_range_gives_its_keys_in_order(self, bench: Bench, reverse: bool, values: bool) -> None:
        keys = sorted(EDGE_KEYS)
        pairs = {key: key[:3] for key in keys}
        bench.seed(pairs.items())
        scan = bench.shard.scan
        for start in EDGES:
            for stop in [None, *EDGES]:
                expected: list[Any] = keys[bisect_left(keys, start) : None if stop is None else bisect_left(keys, stop)]
                if values:
                    expected = [(key, pairs[key]) for key in expected]
                if reverse:
                    expected.reverse()
                assert scan(start, stop, reverse, values) == expected, (start, stop)
                assert scan(start, stop, reverse, values, 2) == expected[:2], (start, stop)

    @both_hashes
    @both_ways
    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    def test_a_scan_in_small_blocks_gives_the_same(self, bench: Bench, reverse: bool, limit: int) -> None:
        keys = sorted(EDGE_KEYS)
        bench.seed((key, key[:3]) for key in keys)
        for start, stop in [(b"", None), (b"g" * 10, None), (b"", b"p" * 505), (b"k" * 511, b"p" * 600)]:
            expected = [key for key in keys if start <= key and (stop is None or key < stop)]
            expected.sort(reverse=reverse)
            assert walk(bench.shard, reverse, start, stop, limit=limit) == expected
            pairs = [(key, key[:3]) for key in expected]
            assert walk(bench.shard, reverse, start, stop, values=True, limit=limit) == pairs

    def test_a_scan_of_an_empty_shard_is_empty(self, bench: Bench) -> None:
        for start in (b"", b"\0", b"k", b"\xff" * 511, b"\xff" * 600):
            for stop in (None, b"", b"\0", b"k", b"\xff" * 511, b"\xff" * 600):
                for reverse in (False, True):
                    assert bench.shard.scan(start, stop, reverse, False) == []
                    assert bench.shard.scan(start, stop, reverse, True) == []

    @both_ways
    def test_a_scan_goes_over_many_blocks(self, bench: Bench, reverse: bool) -> None:
        keys = [b"%05d" % number for number in range(5_000)]
        bench.seed((key, key) for key in keys)
        assert len(bench.shard.scan(b"", None, reverse, False)) < 5_000, "a block is not bounded in items"
        assert walk(bench.shard, reverse) == (keys[::-1] if reverse else keys)

    @both_ways
    def test_a_block_is_bounded_in_bytes(self, bench: Bench, reverse: bool) -> None:
        pairs = [(b"%03d" % number, bytes([number]) * 300_000) for number in range(40)]
        bench.seed(pairs)
        block = bench.shard.scan(b"", None, reverse, True)
        assert sum(len(value) for _, value in block) < 6_000_000
        assert walk(bench.shard, reverse, values=True) == (pairs[::-1] if reverse else pairs)

    @both_ways
    def test_large_values_among_short_keys_do_not_hide_keys_from_long_ones(self, bench: Bench, reverse: bool) -> None:
        short = [(b"a%03d" % number, b"v" * 300_000) for number in range(12)]
        long = [(bytes([letter]) * 600, b"w") for letter in b"Aabz"]
        pairs = sorted(short + long, reverse=reverse)
        bench.seed(pairs)
        assert walk(bench.shard, reverse, values=True) == pairs

    @both_ways
    @pytest.mark.parametrize("values", [False, True])
    def test_long_keys_that_fill_a_block_do_not_hide_others(self, bench: Bench, reverse: bool, values: bool) -> None:
        short = [b"%s%03d" % (letter, number) for letter in (b"A", b"b") for number in range(300)]
        long = [b"a" * 2000 + b"%04d" % number for number in range(1_500)]
        keys = sorted(short + long, reverse=reverse)
        bench.seed((key, b"x" * 2000) for key in keys)
        found = walk(bench.shard, reverse, values=values)
        assert [pair[0] for pair in found] == keys if values else found == keys

    @both_hashes
    @both_ways
    def test_long_keys_with_one_beginning_come_in_order(self, bench: Bench, reverse: bool) -> None:
        keys = [b"g" * 500 + random.Random(number).randbytes(20) for number in range(150 if bench.hash(b"") else 1)]
        keys += [b"g" * 500, b"g" * 511, b"f" * 600, b"h" * 600, b"ga", b"gg"]
        random.Random(5).shuffle(keys)
        for at in range(0, len(keys), 20):
            assert all(bench.shard.add_many([(key, key[-4:]) for key in keys[at : at + 20]]))
        keys.sort(reverse=reverse)
        assert walk(bench.shard, reverse) == keys
        for position in keys[::17]:
            behind = (b"", position) if reverse else (position + b"\0", None)
            assert walk(bench.shard, reverse, *behind) == keys[keys.index(position) + 1 :]
        assert bench.stored() == {key: key[-4:] for key in keys}

    @both_ways
    def test_more_long_keys_with_one_beginning_than_fit_a_block(self, bench: Bench, reverse: bool) -> None:
        keys = [b"g" * 500 + b"%06d" % (number * 7919 % 3000) + b"!" * 20 for number in range(3_000)]
        assert all(bench.shard.add_many([(key, b"") for key in keys]))
        assert walk(bench.shard, reverse) == sorted(keys, reverse=reverse)

    @pytest.mark.parametrize("bench", ["constant"], indirect=True)
    def test_long_keys_with_one_digest_are_kept_apart(self, bench: Bench) -> None:
        keys = [b"c" * 600 + b"%02d" % number for number in range(20)]
        for key in keys:
            assert bench.shard.add(key, key[-2:]) is None
        assert bench.shard.count() == 20
        assert bench.shard.get_many(keys) == [key[-2:] for key in keys]
        assert bench.shard.get(b"c" * 600) is None
        assert bench.shard.delete_many(keys[::2]) == 10
        assert bench.shard.add(keys[0], b"again") is None
        bench.shard.put(keys[1], b"other")
        expected = {key: key[-2:] for key in keys[3::2]} | {keys[0]: b"again", keys[1]: b"other"}
        assert bench.stored() == expected
        assert walk(bench.shard, False) == sorted(expected)

    @both_ways
    def test_keys_added_and_removed_during_a_scan_do_not_disturb_the_others(self, bench: Bench, reverse: bool) -> None:
        keep = [b"%05d" % number for number in range(0, 4_000, 2)] + [b"0" * 600, b"2" * 600]
        bench.shard.put_many([(key, b"") for key in sorted(keep)])
        seen: list[bytes] = []
        step = 0
        reader = Reader(bench.shard, BACKWARD if reverse else ALL, values=False)
        while reader.more:
            seen += reader.read()
            bench.shard.put_many([(b"%05d" % number, b"") for number in range(1 + step, 4_000, 400)])
            bench.shard.delete_many([b"%05d" % number for number in range(1 + step - 2, 4_000, 400)])
            step += 2
        assert sorted(key for key in seen if key in set(keep)) == sorted(keep)
        assert seen == sorted(set(seen), reverse=reverse)


def walk(
    shard: Shard,
    reverse: bool,
    start: bytes = b"",
    stop: bytes | None = None,
    *,
    values: bool = False,
    limit: int = BLOCK_ITEMS,
) -> list[Any]:
    """Return all that a scan gives in a range, block by block."""
    found: list[Any] = []
    while block := shard.scan(start, stop, reverse, values, limit):
        assert len(block) <= limit
        found += block
        last = block[-1][0] if values else block[-1]
        if reverse:
            stop = last
        else:
            start = last + b"\0"
        if is_last(block, limit, values):
            assert not shard.scan(start, stop, reverse, values, limit), "a short block that is not the last one"
    return found
