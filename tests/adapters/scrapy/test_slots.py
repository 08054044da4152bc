"""Requests are spread over the slots of the downloader: a host that is slow holds up no other one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import Request, Spider

from tests.adapters.scrapy.alone import Alone, alone, in_child
from tests.adapters.scrapy.crawls import counts, crawl
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound

SLOW, FAST = "localhost", "127.0.0.1"  # one server, two hosts


class Server:
    """Answers whatever it is asked for, and remembers it in order."""

    def __init__(self) -> None:
        served: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.append(f"{self.headers['Host'].partition(':')[0]}{self.path}")
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: object) -> None:
                pass

        self.served = served
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self, host: str) -> list[str]:
        return [path.partition("/")[2] for path in self.served if path.startswith(host)]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


class TwoHosts(Spider):
    """Begins with a long row of pages of the slow host, and then one of the other, each of which leads to the next."""

    name = "hosts"
    start_url: str  # of the fast one
    slow: int
    fast: int

    async def start(self) -> Any:
        yield Request(self.start_url + "0")

    def parse(self, response: Any) -> Any:
        number = int(response.url.rpartition("/")[2])
        if number == 0:
            slow = self.start_url.replace(FAST, SLOW)
            for each in range(1, self.slow):
                yield Request(f"{slow}{each}", self.done)
        if number + 1 < self.fast:
            yield Request(f"{self.start_url}{number + 1}")
        elif self.crawler.settings["JOBDIR"]:
            self.crawler.engine.downloader.slots[SLOW].delay = 0  # what was in it may go

    def done(self, response: Any) -> None:
        pass


def _crawl(start: str, settings: dict[str, Any], slow: int, fast: int) -> dict[str, Any]:
    return crawl(start, settings, TwoHosts, slow=slow, fast=fast)


def _settings(**settings: Any) -> dict[str, Any]:
    slots = {SLOW: {"delay": 0.15, "concurrency": 1, "jitter": 0}}
    return {"DOWNLOAD_SLOTS": slots, "ITEM_PIPELINES": {}, "LOG_LEVEL": "INFO"} | settings


def test_a_long_row_of_pages_of_a_slow_host_holds_up_no_other(server: Server, tmp_path: Path) -> None:
    start = f"http://{FAST}:{server.port}/"
    with Crew() as crew:
        stats = crew.start(_crawl, start, _settings(JOBDIR=str(tmp_path)), 150, 60).result()
    assert stats["finish_reason"] == "finished"
    assert sorted(map(int, server.paths(FAST))) == list(range(60))
    assert sorted(map(int, server.paths(SLOW))) == list(range(1, 150))
    last = server.served.index(f"{FAST}/59")
    before = sum(path.startswith(SLOW) for path in server.served[:last])
    print(f"{before} pages of the slow host came before the last one of the other")
    assert before < 75


def test_other_processes_get_work_while_one_holds_pages_of_a_slow_host(server: Server, tmp_path: Path) -> None:
    start = f"http://{FAST}:{server.port}/"
    settings = _settings(RACK_STORE=str(tmp_path / "crawl"))
    with Crew() as crew:
        began = time.monotonic()
        workers = [crew.start(_crawl, start, settings, 60, 100) for _ in range(2)]
        stats = [worker.result() for worker in workers]
        print(f"{time.monotonic() - began:.1f} s")
    assert {each["finish_reason"] for each in stats} == {"finished"}
    assert sorted(map(int, server.paths(FAST))) == list(range(100))
    assert sorted(map(int, server.paths(SLOW))) == list(range(1, 60))
    assert all(each["rack/done"] > 10 for each in stats)
    assert counts(tmp_path / "crawl-hosts-requests").done == 159


# The choice itself, without an engine


def _busy(count: int) -> Any:
    return SimpleNamespace(active=set(range(count)))


def _put(it: Alone, url: str, **arguments: Any) -> None:
    assert it.scheduler.enqueue_request(Request(f"http://{url}", **arguments))


def _taken(it: Alone, most: int = 1000) -> list[str]:
    taken = []
    while len(taken) < most and (request := it.take()) is not None:
        taken.append(request.url.removeprefix("http://"))
    return taken


def _least(path: Path) -> None:
    with alone({"JOBDIR": str(path)}) as it:
        slots = it.slots
        slots["a"], slots["b"] = _busy(8), _busy(2)
        for number in range(100):
            _put(it, f"a/{number}")
        for number in range(3):
            _put(it, f"b/{number}")
        assert _taken(it, 3) == ["b/0", "b/1", "b/2"]
        assert _taken(it, 2) == ["a/0", "a/1"]  # there is no other one
        _put(it, "b/3")
        _put(it, "c/0")
        assert _taken(it, 2) == ["c/0", "b/3"]
        slots["a"] = slots["b"] = _busy(0)
        for number in range(4, 8):
            _put(it, f"b/{number}", priority=number)
        found = _taken(it, 10)
        assert [url for url in found if url[0] == "b"] == ["b/7", "b/6", "b/5", "b/4"]
        assert [url for url in found if url[0] == "a"] == [f"a/{number}" for number in range(2, 8)]


def _resumed(path: Path) -> None:
    with alone({"JOBDIR": str(path)}) as it:
        for number in range(300):
            _put(it, f"a/{number}")
        _put(it, "b/0", meta={"download_slot": "mine"})
        _put(it, "b/0", meta={"download_slot": "other"}, dont_filter=True)
        assert not it.scheduler.enqueue_request(Request("http://b/0"))  # whatever its slot is
        assert _taken(it, 1)  # and is in progress when this ends
    with alone({"JOBDIR": str(path)}) as it:
        it.slots["a"] = _busy(8)
        assert _taken(it, 3) == ["b/0", "b/0", "a/0"]
    row = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}
    with alone({"JOBDIR": str(path)} | row) as it:  # what was put into slots is found without them, too
        assert it.put("last")
        assert len(_taken(it)) == 304 - 1 - 1 + 1


def _held(path: Path) -> None:
    """What a process holds of a slot is bounded, and is given back if it is not asked for."""
    with (
        alone({"JOBDIR": str(path)}) as it,
        alone({"JOBDIR": str(path)}) as other,
    ):
        slots = it.slots
        for number in range(1000):
            _put(it, f"{'ab'[number % 2]}/{number}")
        assert len(_taken(it, 200)) == 200
        it.turn()
        leased = counts(path / "requests").leased
        assert leased <= 200 + 2 * 64
        slots["a"] = _busy(8)
        assert all(url.startswith("b/") for url in _taken(it, 100))
        time.sleep(0.6)
        it.turn()
        assert counts(path / "requests").leased == 300
        assert len(_taken(other)) == 700


@pytest.mark.parametrize("body", [_least, _resumed, _held], ids=lambda body: body.__name__[1:])
def test_the_slot_with_the_fewest_downloads_comes_next(body: Any, tmp_path: Path) -> None:
    in_child(body, tmp_path / "job")
