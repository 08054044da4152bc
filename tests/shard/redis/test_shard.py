"""Shards on a server and on a cluster keep the promises of the shard's conformance suite, in each layout."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from rack import CorruptShardError, ServerTimeoutError
from tests.conformance import scan_suite
from tests.conformance.served_bench import ServedBench
from tests.conformance.shard_suite import ShardSuite
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server


def skipped(reason: str) -> Any:
    """Stands in place of a test of something that a server cannot do."""

    @pytest.mark.skip(reason=reason)
    def test(self: object) -> None: ...

    return test


class OnServer(ShardSuite):
    engine = "redis"
    layout: ClassVar[str]
    where: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _fewer_ranges(self, long: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        if not long:
            few = random.Random(seed).sample(scan_suite.EDGES, 25)
            monkeypatch.setattr(scan_suite, "EDGES", sorted(few))

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        if getattr(request, "param", "sha256") == "constant":
            pytest.skip("a server takes keys of any length as they are: no digests stand for them")
        place: Server | Cluster = request.getfixturevalue(self.where)
        with place.client() as client:
            bench = ServedBench(place.url, client, self.layout)
            yield bench
            bench.finish()

    test_a_transaction_may_not_use_the_shard_itself_to_write = skipped(
        "the function runs here, and holds nothing that another write would wait for"
    )
    test_a_write_can_be_abandoned_by_the_check_that_follows_the_writer_lock = skipped("there is no writer's lock")
    test_long_keys_with_one_digest_are_kept_apart = skipped("there are no digests")

    # What is otherwise on a server

    def test_every_damage_is_noticed_and_never_served(self, bench: Any) -> None:
        bench.sound = False
        client, key = bench.client, bench.key
        identity = client.get(key + b":id")
        damages: list[Callable[[], object]] = [
            lambda: client.delete(key + b":id"),
            lambda: client.set(key + b":id", b"rack " + b"9" * 32 + b" 0"),
            lambda: client.set(key + b":id", identity[:-1] + b"7"),
            lambda: client.set(key + b":id", b"\xff\0"),
            lambda: (client.delete(key), client.set(key, b"text")),
            lambda: (client.delete(key), client.rpush(key, b"a", b"b")),
        ]
        if self.layout == "ordered":
            damages += [
                lambda: client.zrem(key + b":o", b"a"),
                lambda: client.zadd(key + b":o", {b"more": 0}),
                lambda: client.hdel(key, b"a"),
                lambda: client.delete(key + b":o"),
                lambda: (client.delete(key + b":o"), client.set(key + b":o", b"text")),
            ]
        if self.layout == "packed":
            first = key + b":b:" + bytes(4)
            damages += [
                lambda: client.incr(key + b":a"),
                lambda: client.delete(key + b":r"),
                lambda: client.hdel(first, b"a"),
                lambda: client.hset(first, b"more", b""),
                lambda: client.delete(first),
                lambda: client.set(key + b":b", b"4"),
                lambda: client.rpush(key + b":b", b"a"),
                lambda: (client.delete(first), client.set(first, b"text")),
            ]
        for number, damage in enumerate(damages):
            _empty(bench)
            client.set(key + b":id", identity)
            bench.open()
            bench.shard.put_many([(b"a", b"1"), (b"b" * 600, b"2")])
            bench.shard.delete(b"absent")
            bench.shard.put_many([(b"gone", b"3")])
            bench.shard.delete(b"gone")
            bench.shard.check()
            bench.close()
            damage()
            with pytest.raises(CorruptShardError) as caught:
                opened_and_checked(bench)
            assert str(bench.address) in str(caught.value), number
        _empty(bench)
        client.set(key + b":id", identity)
        bench.open()

    def test_a_forked_child_rejoins_once_and_its_write_is_seen(self, bench: Any) -> None:
        """It has connections and sessions of its own."""
        bench.shard.put(b"parent", b"1")
        assert bench.shard.add(b"more", b"1") is None
        child = os.fork()
        if not child:
            status = 1
            try:
                bench.server.forget()
                assert bench.shard.add(b"child", bench.shard.get(b"parent")) is None
                status = 0 if bench.shard.pop(b"more") == b"1" else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bench.shard.get(b"child") == b"1"
        assert bench.shard.add(b"more", b"2") is None


def _empty(bench: Any) -> None:
    bench.client.delete(bench.key + b":b")
    for key in bench.raw.keys(bench.key):
        bench.client.delete(key)


def opened_and_checked(bench: Any) -> None:
    bench.open()
    bench.shard.check()


class InOrder(OnServer):
    layout = "ordered"


class AsHashes(OnServer):
    """What is in no order is read as iterations read it: sorted here."""

    layout = "hash"

    test_pop_first_takes_the_least_key_of_all = skipped("any key is the first one where there is no order")
    test_the_version_differs_after_every_change_and_only_then = skipped("this layout has no version: it counts entries")
    test_the_steps_of_a_transaction_see_each_other_and_happen_together = skipped("view.first() needs an order of keys")
    test_a_transaction_larger_than_the_file_is_done_again_and_happens_once = skipped(
        "view.first() needs an order of keys"
    )
    test_any_sequence_of_operations_answers_as_a_dict_would = skipped(
        "view.first() and pop_first() need an order of keys: tests/container/test_model.py has sequences in this layout"
    )


class Packed(OnServer):
    layout = "packed"

    test_pop_first_takes_the_least_key_of_all = skipped("any key is the first one: tests/shard/redis/test_packed.py")
    test_any_sequence_of_operations_answers_as_a_dict_would = skipped(
        "pop_first() takes any key: tests/shard/redis/test_packed.py has sequences in this layout"
    )
    test_the_version_differs_after_every_change_and_only_then = skipped("it goes by what pop_first() takes: as above")


class OnOne(OnServer):
    where = "server"

    def test_a_durable_shard_does_the_same(self, bench: Any) -> None:
        """A server without a replica says that none has the write."""
        bench.open(durability="always", timeout=0.1)
        with pytest.raises(ServerTimeoutError, match="no replica"):
            bench.shard.put(b"k", b"v")


#: Of a cluster, what depends on replicas, or goes through many commands.
ESSENTIAL = [
    "test_a_durable_shard_does_the_same",
    "test_every_key_goes_through_every_operation",
    "test_a_cleared_shard_is_empty_and_can_be_used_again",
    "test_a_read_only_shard_reads_and_refuses_writes",
]


class OnCluster(OnServer):
    where = "cluster"

    @pytest.fixture(autouse=True)
    def _not_too_long(self, long: bool, request: pytest.FixtureRequest) -> None:
        if not (long or request.node.originalname in ESSENTIAL):
            pytest.skip("runs with --long on a cluster")


for place in (OnOne, OnCluster):
    for layout in (InOrder, AsHashes, Packed):
        name = f"TestShard{layout.__name__}{place.__name__}"
        globals()[name] = type(name, (place, layout), {"__module__": __name__})
del place, layout, name
del OnServer, OnOne, OnCluster, InOrder, AsHashes, Packed
