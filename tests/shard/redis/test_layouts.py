"""The layouts, scripts and pipelines: what the conformance suites do not see."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.shard.redis.protocol import slot_of
from rack.shard.redis.view import Reading
from tests.support.servers import Server, redis, take_all_keys
from tests.support.servers import server as server

_numbers = itertools.count()


@pytest.fixture(params=["hash", "ordered", "packed"])
def url(server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take_all_keys(monkeypatch)
    return f"{server.url}?name=layouts{next(_numbers)}&layout={request.param}"


def test_slots_are_those_of_a_cluster() -> None:
    assert slot_of(b"123456789") == 12739  # the example of the specification
    for number in range(1000):
        assert slot_of(b"crawl:seen:%d" % number) == redis.crc.key_slot(b"{crawl:seen:%d}:id" % number)


def test_iteration_gives_what_stays_exactly_once_while_the_table_grows_and_shrinks(url: str) -> None:
    with PersistentSet(url, shards=2) as s:
        stays = {f"stays {number}" for number in range(3000)}
        s.update(stays)
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                s.update(f"goes {number}" for number in range(8000))
                s.discard_many(f"goes {number}" for number in range(8000))

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(5):
                found = list(s)
                assert len(found) == len(set(found))
                assert stays <= set(found)
        finally:
            stop.set()
            thread.join()


def test_scripts_that_a_server_has_forgotten_are_sent_again(url: str, server: Server) -> None:
    with PersistentDict(url, shards=2) as d:
        for number in range(3):
            server.client().script_flush()
            assert d.add(number, 1)
            server.client().script_flush()
            d.update({(number, each): each for each in range(10)})
            server.client().script_flush()
            assert d.get_many([number]) == {number: 1}
            assert list(d)
            server.client().script_flush()
            assert d.pop(number) == 1
            with d.batch() as batch:
                batch["a"] = number
                del batch["b"]


def test_what_is_large_is_sent_in_parts(url: str) -> None:
    values = {number: bytes([number % 256]) * 30_000 for number in range(200)}
    with PersistentDict(url, shards=2) as d:
        d.update(values)
        assert dict(d) == values
        assert d.get_many(range(200)) == values
        d.update((number, number) for number in range(20_000))
        assert len(d) == 20_000
        assert d.delete_many(range(10_000, 30_000)) == 10_000
        assert d.check() == 10_000
    with PersistentSet(url.replace("&", "s&"), shards=2) as s:
        assert s.add_many(range(15_000)) == 15_000
        assert sum(1 for _ in s.filter_new(range(20_000))) == 5_000


def test_counting_in_one_key_by_threads_loses_nothing(url: str) -> None:
    with PersistentDict(url, shards=1) as d:
        threads = [threading.Thread(target=lambda: [d.incr("n") for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert d["n"] == 400


class Model:
    """What a transaction reads: a dict."""

    def __init__(self, content: dict[bytes, bytes]) -> None:
        self.content = content

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[Any]:
        keys = sorted(key for key in self.content if start <= key and (stop is None or key < stop))
        return [(key, self.content[key]) for key in keys[:limit]]


def test_a_transaction_reads_what_it_has_written(seed: int) -> None:
    chance = random.Random(seed)
    keys = [bytes([byte]) for byte in range(12)]
    for _ in range(300):
        there = {key: b"old" for key in keys if chance.random() < 0.5}
        reading, expected = Reading(there.get, Model(there).scan), dict(there)
        for _ in range(8):
            key, other = chance.choice(keys), chance.choice(keys)
            step = chance.randrange(4)
            if step == 0:
                reading.put(key, b"new")
                expected[key] = b"new"
            elif step == 1:
                assert reading.delete(key) == (expected.pop(key, None) is not None)
            elif step == 2:
                assert reading.get(key) == expected.get(key)
            else:
                stop = chance.choice([None, other])
                limit = chance.randrange(1, 5)
                assert reading.first(key, stop, limit) == Model(expected).scan(key, stop, limit)


def test_a_transaction_whose_reads_have_changed_is_repeated(url: str) -> None:
    with (
        PersistentDict(url, shards=1, key_serdes="bytes", serdes="bytes") as d,
        PersistentDict(url, key_serdes="bytes", serdes="bytes") as other,
    ):
        d[b"a"] = b"1" * 100
        calls: list[bytes | None] = []

        def body(view: Any) -> bool:
            calls.append(view.get(b"a"))
            if len(calls) == 1:
                other[b"a"] = b"2" * 100
            view.put(b"b", calls[-1])
            return bool(view.delete(b"absent"))

        assert d._store.shards[0].transact(body) is False
        assert calls == [b"1" * 100, b"2" * 100]
        assert d[b"b"] == b"2" * 100


@pytest.mark.parametrize("layout", ["ordered", "packed"])
def test_a_range_that_was_read_is_looked_at_again(server: Server, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_all_keys(monkeypatch)
    url = f"{server.url}?name=layouts{next(_numbers)}&layout={layout}"
    with (
        PersistentDict(url, shards=1, key_serdes="bytes", serdes="bytes") as d,
        PersistentDict(url, key_serdes="bytes", serdes="bytes") as other,
    ):
        d.update({b"a": b"1", b"c": b"3"})
        found: list[Any] = []

        def body(view: Any) -> None:
            found.append(view.first(b"a", b"z", 9))
            if len(found) == 1:
                other[b"b"] = b"2"
            for key, _ in found[-1]:
                view.delete(key)

        d._store.shards[0].transact(body)
        assert [len(pairs) for pairs in found] == [2, 3]
        assert not d


@pytest.fixture(autouse=True)
def _leave_nothing(server: Server) -> Iterator[None]:
    yield
    for key in server.client().scan_iter("*layouts*", count=1000):
        server.client().unlink(key)
