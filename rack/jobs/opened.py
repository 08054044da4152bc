"""What an open queue has."""

from __future__ import annotations

from math import gcd, inf

from xxhash import xxh3_64_digest

from rack.jobs import records
from rack.jobs.steps import Steps
from rack.store.rotation import rotated
from rack.store.sharded import Store
from rack.system import boot


class Opened:
    """The steps of each shard, and the order in which shards are taken."""

    __slots__ = ("may_have", "steps", "stride", "swept", "turn")

    def __init__(self, store: Store, max_claims: int | None, pause: int) -> None:
        count = len(store.shards)
        if store.clock is None:
            tag, clock = xxh3_64_digest(boot.boot_id().encode()), None
        else:
            tag, clock = records.SHARED, store.clock()
        self.steps = [
            Steps(shard, records.counters_key(number, count), tag, max_claims, pause, clock)
            for number, shard in enumerate(store.shards)
        ]
        self.may_have = [True] * count  # whether a job was claimed of the shard when it was looked at last
        self.turn = rotated(range(count))[0]  # the shard that is looked at next
        # Shards are taken in an order of one's own, each once in a round: who went the same way as others would meet
        # them in every shard.
        self.stride = rotated([step for step in range(1, count + 1) if gcd(step, count) == 1])[0]
        self.swept = -inf  # when it was looked who has leases
