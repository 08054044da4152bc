"""The layout for digests: many small hashes that are cut and joined while they are used."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from rack import (
    CorruptShardError,
    Digest,
    MismatchError,
    PersistentDict,
    PersistentSet,
    StoreFullError,
    UnsupportedOperation,
)
from rack.shard.redis.buckets import FILL
from tests.conformance.served import RawServer
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.servers import own_server as own_server
from tests.support.servers import server as server

FORK = multiprocessing.get_context("fork")
SMALL = 128  # entries: a hash that has more is no list any more, as servers are set up by default
_numbers = itertools.count()


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    name = f"packed{next(_numbers)}"
    yield name
    assert server.client().exists(f"{name}.rack")
    for key in server.client().scan_iter(f"*{name}*", count=1000):
        server.client().unlink(key)


@pytest.fixture
def url(server: Server, name: str) -> str:
    return f"{server.url}?name={name}"


def digests(url: str, **options: Any) -> PersistentSet[Any]:
    return PersistentSet(url, key_serdes="digest", **options)


def buckets(server: Server, name: str) -> list[bytes]:
    return list(server.client().scan_iter(f"{{{name}:*}}:b*:*", count=1000))


def assert_small(server: Server, name: str) -> None:
    """Every bucket is a list, and has entries of its own alone."""
    client = server.client()
    found = buckets(server, name)
    assert {client.object("encoding", bucket) for bucket in found} <= {b"listpack", b"ziplist"}
    assert max(map(client.hlen, found), default=0) <= SMALL


def width(server: Server, name: str, number: int = 0) -> int:
    return int(server.client().get(f"{{{name}:{number}}}:b") or 1) % (1 << 32)


def test_stores_with_digests_have_it_and_others_do_not(server: Server, url: str) -> None:
    with PersistentSet(url) as s:
        assert s.stat().layout == "direct"
    with digests(url + "d") as s:
        assert s.stat().layout == "packed"
    with digests(url + "h&layout=hash") as s:
        s.add("made before")
    with digests(url + "h") as s:  # nobody has to say that it is an old one
        assert s.stat().layout == "direct"
        assert "made before" in s
    with pytest.raises(MismatchError, match="layout"):
        digests(url + "h&layout=packed").open()
    with pytest.raises(UnsupportedOperation, match="digests"):
        PersistentSet(url + "w&layout=packed").open()


def test_buckets_are_cut_and_joined_and_stay_lists(server: Server, url: str, name: str) -> None:
    with digests(url, shards=2) as s:
        s.update(range(20_000))
        assert len(s) == s.check() == 20_000
        assert_small(server, name)
        assert 20_000 <= (width(server, name) + width(server, name, 1)) * FILL < 22_000
        per_key = s.stat().bytes_per_entry
        assert per_key is not None
        assert per_key < 40
        for number in range(19_000):
            if number % 3:
                s.discard(number)
        s.discard_many(range(19_000))
        assert len(s) == s.check() == 1000
        assert all(number in s for number in range(19_000, 20_000))
        assert_small(server, name)
        assert (width(server, name) + width(server, name, 1)) * FILL < 2100
        for _ in range(1000):
            s.pop()
        assert not s
        assert buckets(server, name) == []
        assert (width(server, name), width(server, name, 1)) == (1, 1)


def test_digests_that_come_in_order_are_in_small_buckets_in_the_end(server: Server, url: str, name: str) -> None:
    keys = sorted(Digest(random.Random(1).randbytes(16 * 10_000)[at : at + 16]) for at in range(0, 160_000, 16))
    with digests(url, shards=1) as s:
        for at in range(0, 10_000, 500):
            s.update(keys[at : at + 500])
        assert list(s) == keys
        assert s.check() == 10_000
        assert_small(server, name)


def test_digests_that_are_as_bad_as_can_be_are_held(url: str) -> None:
    keys = [Digest(bytes(14) + number.to_bytes(2, "big")) for number in range(3000)]
    random.Random(2).shuffle(keys)
    with digests(url, shards=1) as s:
        s.update(keys[:1500])
        assert all(map(s.add, keys[1500:]))
        assert list(s) == sorted(keys)
        assert s.check() == 3000
        assert s.discard_many(keys[10:]) == 2990
        assert {s.pop() for _ in range(10)} == set(keys[:10])


@pytest.mark.parametrize("values", [False, True])
def test_any_sequence_of_operations_answers_as_a_dict_would(
    server: Server, url: str, name: str, seed: int, values: bool
) -> None:
    chance = random.Random(seed)
    pool = [chance.randbytes(16) for _ in range(600)]
    model: dict[bytes, bytes] = {}
    raw = RawServer(server.client(), "packed")
    with PersistentDict(url, shards=1, key_serdes="digest", serdes="bytes") as d:
        shard = d._store.shards[0]
        versions = [shard.version()]
        for step in range(1500):
            before = dict(model)
            few = step // 300 % 2  # it grows, and shrinks again
            some = [chance.choice(pool) for _ in range(chance.choice([1, 5, 120]))]
            value = chance.randbytes(chance.choice([0, 3, 100])) if values else b""
            match chance.choice(
                ["add", "put", "pop", "add_many", "put_many", "change_many", "pop_first", "delete_many"]
            ):
                case "add":
                    there = model.get(some[0])
                    assert shard.add(some[0], value) == there
                    model.setdefault(some[0], value)
                case "put":
                    shard.put(some[0], value)
                    model[some[0]] = value
                case "pop":
                    assert shard.pop(some[0]) == model.pop(some[0], None)
                case "add_many":
                    some = some[: 10 if few else 120]
                    expected = [key not in model and key not in some[:at] for at, key in enumerate(some)]
                    assert shard.add_many([(key, value) for key in some]) == expected
                    for key in some:
                        model.setdefault(key, value)
                case "put_many":
                    some = some[: 10 if few else 120]
                    shard.put_many([(key, value) for key in sorted(some)])
                    model.update(dict.fromkeys(some, value))
                case "change_many":
                    some = sorted(set(some))
                    shard.change_many([(key, value) for key in some[::2]], some[1::2])
                    model.update(dict.fromkeys(some[::2], value))
                    for key in some[1::2]:
                        model.pop(key, None)
                case "pop_first":
                    pair = shard.pop_first()
                    assert (pair is None) == (not model)
                    if pair is not None:
                        assert model.pop(pair[0]) == pair[1]
                case "delete_many":
                    if few:
                        some += list(model)[:40]
                    assert shard.delete_many(some) == sum(model.pop(key, None) is not None for key in some)
            versions.append(shard.version())
            assert versions[-1] not in versions[:-1] or (versions[-1] == versions[-2] and model == before)
            if step % 10 == 0:
                start, stop = sorted((chance.choice([b"", *pool]), chance.choice(pool)))
                limit, reverse = chance.choice([1, 7, 50, 1000]), chance.random() < 0.5
                stop_at = chance.choice([None, stop])
                pairs = sorted(
                    (p for p in model.items() if p[0] >= start and (stop_at is None or p[0] < stop_at)), reverse=reverse
                )[:limit]
                assert shard.scan(start, stop_at, reverse, True, limit) == pairs
                assert shard.scan(start, stop_at, reverse, False, limit) == [key for key, _ in pairs]
                assert shard.get_many(some) == [model.get(key) for key in some]
                assert [shard.contains(key) for key in some[:9]] == [key in model for key in some[:9]]
                assert shard.count() == len(model)
        shard.check()
        assert raw.read(name, 1) == model


def test_of_many_that_add_while_buckets_are_cut_exactly_one_is_told_of_each_key(
    server: Server, url: str, name: str, seed: int
) -> None:
    keys, processes = 6000, 8
    with digests(url, shards=2):
        pass
    answers = FORK.Queue()

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        mine = list(range(keys))
        chance.shuffle(mine)
        new = []
        with digests(url) as s:
            new += [key for key in mine[:1500] if s.add(key)]
            for at in range(1500, keys, 300):
                new += s.filter_new(mine[at : at + 300])
        answers.put(new)

    workers = [FORK.Process(target=work, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    told = Counter(key for _ in workers for key in answers.get(timeout=60))
    for worker in workers:
        worker.join()
    assert told == dict.fromkeys(range(keys), 1)
    with digests(url) as s:
        assert len(s) == s.check() == keys
    assert width(server, name) > 50
    assert_small(server, name)


def test_a_loop_gives_what_stays_exactly_once_while_buckets_are_cut_and_joined(url: str) -> None:
    with digests(url, shards=2) as s:
        s.update(f"stays {number}" for number in range(2000))
        stays = set(s)
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                s.update(f"goes {number}" for number in range(6000))
                s.discard_many(f"goes {number}" for number in range(6000))

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(8):
                found = list(s)
                assert len(found) == len(set(found))
                assert found == sorted(found)
                assert stays <= set(found)
        finally:
            stop.set()
            thread.join()


def test_a_write_whose_answer_is_lost_is_done_once_also_where_it_cuts_a_bucket(server: Server, url: str) -> None:
    lose = threading.Event()
    many = 5 * FILL
    with Proxy(server.port, lose) as port, digests(url.replace(f":{server.port}", f":{port}"), shards=1) as s:
        for number in range(many):
            lose.set()
            assert s.add(number) is True
            assert not lose.is_set()
        assert len(s) == many
        for at in range(3):
            lose.set()
            assert list(s.filter_new(range(many * (at + 2)))) == list(range(many * (at + 1), many * (at + 2)))
        assert s.check() == len(s) == 4 * many
        lose.set()
        assert s.discard_many(range(many)) == many
        for number in range(many, 2 * many):
            lose.set()
            assert s.discard(number) is True
        assert s.check() == len(s) == 2 * many


def test_what_a_killed_clear_left_is_removed_by_the_next_one(
    server: Server, url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with digests(url, shards=1) as s:
        s.update(range(4000))
        with monkeypatch.context() as killed:
            killed.setattr("rack.shard.redis.packed.PackedShard._sweep", lambda shard: None)
            s.clear()
            s.update(range(3000, 3100))
            s.clear()
        s.update(range(5000, 5100))
        assert len(s) == s.check() == 100  # nobody sees what was left
        assert len(buckets(server, name)) > 100
        s.clear()
        assert (len(s), buckets(server, name)) == (0, [])
        assert not server.client().exists(f"{{{name}:0}}:x")
        s.add("again")
        assert s.check() == 1


def test_a_clear_is_done_in_parts(own_server: Server) -> None:
    client = own_server.client()
    with digests(f"{own_server.url}?name=large", shards=1) as s:
        s.update(range(200_000))
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        s.clear()
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before > 2
        assert not s
        assert not list(client.scan_iter("*:b*:*", count=1000))


def test_clearing_and_removing_leave_nothing(server: Server, url: str, name: str) -> None:
    client = server.client()
    with digests(url, shards=2) as s:
        s.update(range(5000))
        before = s._store.shards[0].version()
        s.clear()
        assert s._store.shards[0].version() != before
        assert (len(s), list(s), s.check()) == (0, [], 0)
        assert buckets(server, name) == []
        s.update(range(300))
        assert len(s) == s.check() == 300
    with digests(url, flag="n") as s:
        assert len(s) == 0
    left = [key for key in client.scan_iter(f"*{name}*", count=1000) if b":t:" not in key]
    assert not [key for key in left if key.startswith(b"{%b:" % name.encode())]


def test_a_full_server_refuses_digests_and_lets_them_be_removed(own_server: Server) -> None:
    with digests(f"{own_server.url}?name=full", shards=1) as s:
        s.update(range(3000))
        client = own_server.client()
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        with pytest.raises(StoreFullError):
            s.add("new")
        with pytest.raises(StoreFullError):
            s.update(range(3000, 6000))
        assert s.discard_many(range(0, 3000, 2)) == 1500
        assert len(s) == s.check()
        s.clear()
        client.config_set("maxmemory", 0)
        assert s.add("new")
        assert len(s) == s.check() == 1


def test_what_is_wrong_is_found(server: Server, url: str, name: str) -> None:
    client = server.client()
    with digests(url, shards=1) as s:
        s.update(range(1000))
        assert s.check() == 1000
        client.incr(f"{{{name}:0}}:a")
        with pytest.raises(CorruptShardError, match="counts 1001 entries and has 1000"):
            s.check()
        client.incr(f"{{{name}:0}}:r")
        first, last = sorted(buckets(server, name))[:: width(server, name) - 1]
        client.hset(first, client.hkeys(last)[0], "")
        client.incr(f"{{{name}:0}}:a")
        with pytest.raises(CorruptShardError, match="wrong bucket"):
            s.check()
