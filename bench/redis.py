"""Stores on a Redis server beside redis-py by hand, and scrapy-redis's filter: ``python -m bench.redis URL``.

With ``--memory KEYS``, how many bytes a key takes in place of how long it takes.

The server is one that runs already, as ``redis://localhost:6379/9``; keys that begin with ``rack-bench`` are made there
and removed. Rounds alternate, so that what else the machine does meets both; the figures are medians.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import redis

from rack import PersistentDict, PersistentSet

_ROUNDS = 7
_SINGLE, _MANY = 2000, 40_000
_PIPELINE = 1000
_NAME = "rack-bench"

Row = tuple[str, Callable[[int], object], Callable[[int], object], int]


def urls(start: int, count: int) -> list[str]:
    return [
        f"https://www.example-{n % 997:03d}.org/section/{n % 97}/article-{n:09d}.html"
        for n in range(start, start + count)
    ]


def rows(url: str, client: Any) -> list[Row]:
    """Return what is measured: Rack's way, that by hand, and how many operations it is; all take the round."""
    ages: PersistentDict[str, str] = PersistentDict(f"{url}?name={_NAME}-d", serdes="str", key_serdes="str").open()
    seen: PersistentSet[str] = PersistentSet(f"{url}?name={_NAME}-s", serdes="str").open()
    digests: PersistentSet[str] = PersistentSet(f"{url}?name={_NAME}-g", serdes="str", key_serdes="digest").open()
    hits: PersistentDict[str, int] = PersistentDict(f"{url}?name={_NAME}-i", key_serdes="str").open()
    hashes: PersistentSet[str] = PersistentSet(
        f"{url}?name={_NAME}-gh&layout=hash", serdes="str", key_serdes="digest"
    ).open()
    table, names, prints = f"{_NAME}-h", f"{_NAME}-n", f"{_NAME}-p"
    one, many = _SINGLE, _MANY

    def each(work: Callable[[str], object], shift: int = 0) -> Callable[[int], object]:
        def run(number: int) -> None:
            for key in urls(shift + number * one, one):
                work(key)

        return run

    def piped(work: Callable[[Any, str], object]) -> Callable[[int], object]:
        def run(number: int) -> int:
            found = 0
            keys = urls(10**8 + number * many, many)
            for at in range(0, many, _PIPELINE):
                pipeline = client.pipeline(transaction=False)
                for key in keys[at : at + _PIPELINE]:
                    work(pipeline, key)
                found += sum(map(bool, pipeline.execute()))
            return found

        return run

    def looked_up(number: int) -> None:
        keys = urls(10**8 + number * many, many)
        for at in range(0, many, _PIPELINE):
            client.hmget(table, keys[at : at + _PIPELINE])

    def hinted(pipeline: Any, key: str) -> None:
        pipeline.hset(table, key, "v")

    def fingerprint(key: str) -> str:
        return hashlib.sha1(key.encode()).hexdigest()

    return [
        (
            "d[k] = v / HSET",
            each(lambda key: ages.__setitem__(key, "v")),
            each(lambda key: client.hset(table, key, "v")),
            one,
        ),
        ("d[k] / HGET", each(lambda key: ages[key]), each(lambda key: client.hget(table, key)), one),
        ("k in d / HEXISTS", each(lambda key: key in ages), each(lambda key: client.hexists(table, key)), one),
        ("s.add(k) / HSETNX", each(seen.add), each(lambda key: client.hsetnx(names, key, "")), one),
        ("s.discard(k) / HDEL", each(seen.discard), each(lambda key: client.hdel(names, key)), one),
        ("d.incr(k) / HINCRBY", each(hits.incr), each(lambda key: client.hincrby(f"{table}i", key)), one),
        (
            "d.update / HSET piped",
            lambda n: ages.update((key, "v") for key in urls(10**8 + n * many, many)),
            piped(hinted),
            many,
        ),
        ("d.get_many / HMGET", lambda n: ages.get_many(urls(10**8 + n * many, many)), looked_up, many),
        (
            "s.filter_new / HSETNX piped",
            lambda n: sum(1 for _ in seen.filter_new(urls(10**8 + n * many, many))),
            piped(lambda p, key: p.hsetnx(names, key, "")),
            many,
        ),
        (
            "s.add(url), digests / scrapy-redis's filter",
            each(digests.add),
            each(lambda key: client.sadd(prints, fingerprint(key))),
            one,
        ),
        ("s.add(url), digests / in plain hashes", each(digests.add, 10**7), each(hashes.add, 10**7), one),
        ("url in s, the same", each(digests.__contains__, 10**7), each(hashes.__contains__, 10**7), one),
        ("s.discard(url), the same", each(digests.discard, 10**7), each(hashes.discard, 10**7), one),
        (
            "s.filter_new, digests / SADD piped",
            lambda n: sum(1 for _ in digests.filter_new(urls(10**8 + n * many, many))),
            piped(lambda p, key: p.sadd(prints, fingerprint(key))),
            many,
        ),
        (
            "s.filter_new, digests / in plain hashes",
            lambda n: sum(1 for _ in digests.filter_new(urls(10**9 + n * many, many))),
            lambda n: sum(1 for _ in hashes.filter_new(urls(10**9 + n * many, many))),
            many,
        ),
        (
            "s.contains_many, the same",
            lambda n: sum(digests.contains_many(urls(10**9 + n * many, many))),
            lambda n: sum(hashes.contains_many(urls(10**9 + n * many, many))),
            many,
        ),
    ]


def memory(url: str, client: Any, count: int) -> None:
    """Print what keys take of a server's memory that nobody else uses: URLs, without values."""
    kinds = {
        "whole keys": "&layout=hash",
        "digests": "",
        "digests, in plain hashes": "&layout=hash",
        "whole keys, ordered": "&layout=ordered",
        "digests, ordered": "&layout=ordered",
    }
    for kind, layout in kinds.items():
        with PersistentSet[str](
            f"{url}?name={_NAME}-m{layout}", serdes="str", key_serdes="digest" if "digests" in kind else None
        ) as s:
            _told(client, kind, count, lambda s=s: s.update(urls(0, count)))  # type: ignore[misc]
        _remove(client)

    def filtered() -> None:
        pipeline = client.pipeline(transaction=False)
        for number, key in enumerate(urls(0, count)):
            pipeline.sadd(f"{_NAME}-p", hashlib.sha1(key.encode()).hexdigest())
            if number % _PIPELINE == 0 or number == count - 1:
                pipeline.execute()

    _told(client, "scrapy-redis: SHA-1 in hex, one set", count, filtered)


def _told(client: Any, kind: str, count: int, fill: Callable[[], object]) -> None:
    before = client.info("memory")["used_memory"]
    fill()
    taken = client.info("memory")["used_memory"] - before
    print(f"{kind:36} {taken / count:7.1f} bytes a key", flush=True)


@click.command()
@click.argument("url")
@click.option("--rounds", default=_ROUNDS, show_default=True)
@click.option("--memory", "keys", default=0, help="Tell the bytes that so many keys take.")
def main(url: str, rounds: int, keys: int) -> None:
    """Measure on the server at URL, without a ?name=."""
    client = redis.Redis.from_url(url)
    _remove(client)
    try:
        if keys:
            memory(url, client, keys)
            return
        print(f"{'':44} {'Rack':>9} {'by hand':>9}  share")
        for name, ours, theirs, count in rows(url, client):
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds):
                for work, taken in ((ours, times[0]), (theirs, times[1])):
                    begun = time.perf_counter()
                    work(number)
                    taken.append(time.perf_counter() - begun)
            mine, other = (count / statistics.median(taken) for taken in times)
            print(f"{name:44} {mine:9,.0f} {other:9,.0f}  {mine / other:5.2f}", flush=True)
    finally:
        _remove(client)


def _remove(client: Any) -> None:
    for key in client.scan_iter(f"*{_NAME}*", count=1000):
        client.delete(key)


if __name__ == "__main__":
    main()
