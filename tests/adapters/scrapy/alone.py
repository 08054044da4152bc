"""A scheduler without an engine, in a process of its own, so that the one of the tests has no reactor."""

from __future__ import annotations

import logging
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scrapy import Request, Spider

from tests.support.processes import Crew


def in_child(function: Callable[..., Any], *args: object) -> Any:
    with Crew() as crew:
        return crew.start(function, *args).result()


class Log(logging.Handler):
    """Remembers what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class Named(Spider):
    name = "named"

    def other(self, response: Any) -> None:
        pass


class Alone:
    """A scheduler. What it hands out is in progress until it is :meth:`over`."""

    def __init__(self, settings: dict[str, Any], spider: type[Spider]) -> None:
        from scrapy.utils.httpobj import urlparse_cached
        from scrapy.utils.misc import build_from_crawler, load_object
        from scrapy.utils.test import get_crawler
        from twisted.internet import reactor  # noqa: F401  # which looping calls are of

        ours = {"SCHEDULER": "rack.adapters.scrapy.RackScheduler"}
        self.crawler: Any = get_crawler(spider, ours | settings)
        self.spider = self.crawler.spider = spider.from_crawler(self.crawler)
        self.progress: set[Request] = set()
        self.closed: list[str] = []

        async def close_spider_async(*, reason: str) -> None:
            self.closed.append(reason)

        self.woken = 0

        def schedule() -> None:
            self.woken += 1

        slot = types.SimpleNamespace(inprogress=self.progress, nextcall=types.SimpleNamespace(schedule=schedule))
        self.slots: dict[str, Any] = {}  # of the downloader
        downloader = types.SimpleNamespace(
            slots=self.slots,
            get_slot_key=lambda request: request.meta.get("download_slot") or urlparse_cached(request).hostname,
        )
        self.crawler.engine = types.SimpleNamespace(
            _slot=slot, close_spider_async=close_spider_async, downloader=downloader
        )
        self.scheduler: Any = build_from_crawler(load_object(self.crawler.settings["SCHEDULER"]), self.crawler)
        self.scheduler.open(self.spider)

    def put(self, path: str, **arguments: Any) -> bool:
        return bool(self.scheduler.enqueue_request(Request(f"http://127.0.0.1/{path}", **arguments)))

    def take(self) -> Request | None:
        request: Request | None = self.scheduler.next_request()
        if request is not None:
            self.progress.add(request)
        return request

    def paths(self, most: int = 1000) -> list[str]:
        """Take what there is, and be done with it; return the paths."""
        found = []
        while len(found) < most and (request := self.take()) is not None:
            found.append(request.url.rpartition("/")[2])
            self.over(request)
        return found

    def over(self, request: Request) -> None:
        self.progress.remove(request)

    def turn(self) -> None:
        """What the event loop does, which does not run here."""
        self.scheduler._turn()

    def stat(self, name: str) -> Any:
        self.scheduler._tally.hand_on()
        return self.crawler.stats.get_value(name, 0)

    @property
    def log(self) -> list[str]:
        return _log.lines


_log: Log


@contextmanager
def alone(settings: dict[str, Any], spider: type[Spider] = Named) -> Iterator[Alone]:
    global _log
    warnings.simplefilter("ignore")
    _log = Log()
    logging.getLogger().addHandler(_log)
    logging.getLogger().setLevel(logging.DEBUG)
    made = Alone(settings, spider)
    try:
        yield made
    finally:
        made.scheduler.close("finished")
        logging.getLogger().removeHandler(_log)
