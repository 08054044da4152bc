"""Crawls for tests: of a site on the loopback, each in a process of its own, which may be killed."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from scrapy import Request, Spider
from scrapy.crawler import CrawlerProcess
from scrapy.http import Response

from rack import PersistentDict, PersistentQueue
from rack.cli.site import Site
from rack.jobs.job import Counts

SETTINGS: dict[str, Any] = {
    "ADDONS": {"rack.adapters.scrapy.RackAddon": 0},
    "RETRY_TIMES": 5,
    "TELNETCONSOLE_ENABLED": False,
    "LOG_LEVEL": "DEBUG",
}


class SiteSpider(Spider):
    """Follows all links, and makes an item of each page and of each of its first two links."""

    name = "site"
    start_url: str

    async def start(self) -> AsyncIterator[Any]:
        yield Request(self.start_url, dont_filter=True)

    def parse(self, response: Response) -> Iterator[Any]:
        yield {"url": response.url, "number": -1}
        for number, link in enumerate(response.css("a")):
            if number < 2:
                yield {"url": response.url, "number": number}
            yield response.follow(link)


def crawl(start: str, settings: dict[str, Any], spider: type[Spider] = SiteSpider, **arguments: Any) -> dict[str, Any]:
    """Run a crawl in this process, which does nothing else, and return its stats. Its log is on standard error."""
    warnings.simplefilter("ignore")
    process = CrawlerProcess(SETTINGS | settings)
    crawler = process.create_crawler(spider)
    process.crawl(crawler, start_url=start, **arguments)
    process.start()
    assert crawler.stats is not None
    sys.stderr.flush()
    return crawler.stats.get_stats()


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def pages(site: Site) -> int:
    """Return how many requests the site has had."""
    return sum(site.asked().values())


def counts(store: Path | str) -> Counts:
    with PersistentQueue[bytes](store, flag="r") as queue:
        return queue.counts()


def items(store: Path | str) -> list[dict[str, Any]]:
    with PersistentDict[str, dict[str, Any]](store, flag="r") as stored:
        return list(stored.values())


def check(site: Site, stores: str) -> None:
    """Assert that a crawl has found all there is, once, and that nothing is left to be done."""
    found = items(f"{stores}items")
    urls = [item["url"] for item in found if item["number"] < 0]
    assert sorted(urls) == sorted(site.there())
    links = {(item["url"], item["number"]) for item in found}
    expected = {(url, number) for url in site.there() for number in (-1, 0, 1)}
    assert links == expected
    assert len(found) == len(expected)
    left = counts(f"{stores}requests")
    assert left == Counts(0, 0, 0, left.done, 0)
