"""The slots of the downloader, by which requests are spread: one for each host, unless a request names its own."""

from __future__ import annotations

from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler


class Slots:
    """Those of a crawl. They are asked for as Scrapy's ``DownloaderAwarePriorityQueue`` does it."""

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler

    def of(self, request: Request) -> str:
        """Return the name of the slot of a request."""
        return str(self._downloader.get_slot_key(request))

    def load(self, name: str) -> int:
        """Return how many downloads a slot has, with those that wait in it."""
        slot = self._downloader.slots.get(name)
        return len(slot.active) if slot is not None else 0

    @property
    def _downloader(self) -> Any:
        assert self._crawler.engine is not None
        return self._crawler.engine.downloader


class OneSlot:
    """All requests in one row, by their priority and their age."""

    def of(self, request: Request) -> str:
        return ""

    def load(self, name: str) -> int:
        return 0
