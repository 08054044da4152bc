"""``incr`` on a server is one request where the value is a small whole number, and does what it does in files."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.servers import server as server

_numbers = itertools.count()
EDGES = [0, 1, -1, 2**31 - 1, -(2**31), 2**31, 10**15 - 1, 10**15, -(10**15), 2**51, 2**53 + 1, 2**70]
OTHERS = [True, 1.5, -0.0, float("inf"), "text", None, [1]]


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    name = f"incr{next(_numbers)}"
    yield name
    for key in server.client().scan_iter(f"*{name}*", count=1000):
        server.client().unlink(key)


def outcome(d: PersistentDict[Any, Any], *args: Any) -> tuple[Any, ...]:
    """Return what incr answers, or raises, and what is there afterwards, with their types."""
    try:
        answer = d.incr("n", *args)
    except Exception as error:
        answer = type(error)
    there = d.get("n", "absent")
    return answer, type(answer), there, type(there)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("layout", ["hash", "ordered", "packed"])
@pytest.mark.parametrize("serdes", ["marshal", "json", "pickle", "ordered"])
def test_it_does_what_it_does_in_files(
    server: Server, name: str, tmp_path: Path, seed: int, serdes: str, layout: str
) -> None:
    chance = random.Random(seed)
    options: dict[str, Any] = {"serdes": serdes, "key_serdes": "digest", "shards": 1}
    with (
        PersistentDict(f"{server.url}?name={name}&layout={layout}", **options) as served,
        PersistentDict(tmp_path / "d", **options) as local,
    ):
        for value in [..., *EDGES, *OTHERS]:  # ...: there is none
            for _ in range(25):
                delta = chance.choice([*EDGES, *EDGES, *OTHERS])
                default = chance.choice([0, *EDGES, *OTHERS])
                for d in (served, local):
                    d.clear()
                    if value is not ...:
                        d["n"] = value
                assert outcome(served, delta, default) == outcome(local, delta, default), (value, delta, default)
                assert outcome(served) == outcome(local)
                assert served.check() == local.check()


@pytest.mark.parametrize("serdes", ["marshal", "json"])
@pytest.mark.parametrize("layout", ["hash", "ordered", "packed"])
def test_it_is_one_request(server: Server, name: str, layout: str, serdes: str) -> None:
    url = f"{server.url}?name={name}&layout={layout}"
    with PersistentDict(url, shards=1, key_serdes="digest", serdes=serdes) as d:
        d.incr("n")
        client = server.client()
        before = calls(client)
        for number in range(2, 12):
            assert d.incr("n") == number
        after = calls(client)
    assert after["evalsha"] - before["evalsha"] == 10
    assert {each for each in after if after[each] != before.get(each)} <= {
        *("evalsha", "info", "get", "mget", "set", "hget", "hset", "incr", "incrby")  # which the script does
    }


def calls(client: Any) -> dict[str, int]:
    found = client.info("commandstats")
    return {command.removeprefix("cmdstat_"): stats["calls"] for command, stats in found.items()}


@pytest.mark.parametrize("layout", ["hash", "ordered", "packed"])
def test_it_is_done_once_though_answers_are_lost_and_others_count_too(server: Server, name: str, layout: str) -> None:
    lose = threading.Event()
    with Proxy(server.port, lose) as port:
        url = f"redis://127.0.0.1:{port}/0?name={name}&layout={layout}"
        with PersistentDict(url, shards=1, key_serdes="digest") as d, PersistentDict(url, key_serdes="digest") as other:
            for number in range(1, 21):
                lose.set()
                assert d.incr("n") == 2 * number - 1
                assert other.incr("n") == 2 * number
            d["n"] = 2**31 - 1  # what follows is no small number any more
            for number in range(5):
                lose.set()
                assert d.incr("n") == 2**31 + number
