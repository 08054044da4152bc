"""The cache of responses: what was fetched is not fetched again, until it expires."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import Request
from scrapy.http import HtmlResponse, Response
from scrapy.settings import Settings

from rack.adapters.scrapy import RackCacheStorage
from rack.cli.site import Site
from tests.adapters.scrapy.crawls import crawl, pages
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound


def test_a_second_crawl_takes_all_from_the_cache(tmp_path: Path) -> None:
    settings = {"HTTPCACHE_ENABLED": True, "HTTPCACHE_DIR": str(tmp_path / "cache")}
    with Site(60, seed=5, delay=0.001) as site, Crew() as crew:
        first = crew.start(crawl, site.start, settings | {"JOBDIR": str(tmp_path / "1")}).result()
        asked = pages(site)
        second = crew.start(crawl, site.start, settings | {"JOBDIR": str(tmp_path / "2")}).result()
        assert pages(site) == asked
        assert second["httpcache/hit"] >= len(site.there())
        assert second["item_scraped_count"] == first["item_scraped_count"]
    assert (tmp_path / "cache" / "site.rack").exists()


class _Spider:
    name = "a/b"

    class crawler:
        class request_fingerprinter:
            @staticmethod
            def fingerprint(request: Request) -> bytes:
                return request.url.encode()


@pytest.mark.parametrize("seconds", [0, 100])
def test_a_response_expires(seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = RackCacheStorage(Settings({"HTTPCACHE_DIR": str(tmp_path), "HTTPCACHE_EXPIRATION_SECS": seconds}))
    spider: Any = _Spider
    storage.open_spider(spider)
    url = "http://127.0.0.1/"
    headers = {"Content-Type": "text/html; charset=latin-1", "Set-Cookie": ["a=1", "b=2"]}
    response = HtmlResponse(url, 201, headers, "<p>\xe4</p>".encode("latin-1"), flags=["x"], protocol="HTTP/1.1")
    storage.store_response(spider, Request(url), response)
    request = Request(url)
    found = storage.retrieve_response(spider, request)
    assert isinstance(found, HtmlResponse)
    assert (found.text, found.headers, found.status, found.flags) == ("<p>\xe4</p>", response.headers, 201, ["x"])
    assert time.time() - request.meta["cache_timestamp"] < 60
    assert storage.retrieve_response(spider, Request(url + "other")) is None
    later = time.time() + 101
    monkeypatch.setattr("rack.adapters.scrapy.httpcache.time", lambda: later)
    assert (storage.retrieve_response(spider, request) is None) == bool(seconds)
    storage.store_response(spider, request, Response(url, body=b"<html></html>"))
    assert isinstance(storage.retrieve_response(spider, request), HtmlResponse)  # as Scrapy guesses
    storage.close_spider(spider)
