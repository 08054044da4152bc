"""An LMDB shard with durability "everysec" is a shard as any, and all of it is in its journal at any time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.bench import HASHES, Bench
from tests.conformance.raw import RAW
from tests.conformance.shard_suite import ShardSuite


class TestShardEverysec(ShardSuite):
    engine = "lmdb"
    raw = RAW["lmdb"]
    durability = "everysec"

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
        bench = Bench(self.engine, self.raw, tmp_path, HASHES[getattr(request, "param", "sha256")], self.durability)
        yield bench
        try:
            if bench.sound:
                stored = bench.stored()
                assert bench.after_power_failure() == stored
        finally:
            bench.finish()

    def test_a_durable_shard_does_the_same(self, bench: Bench) -> None:
        bench.shard.put(b"k", b"v")  # in that suite with "always", which would not be journalled
        bench.shard.sync()
        assert bench.after_power_failure() == {b"k": b"v"}
