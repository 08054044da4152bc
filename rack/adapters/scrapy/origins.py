"""Where items come from: the request, and the how manieth item of it each one is."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider
from scrapy.http import Response
from scrapy.utils.request import RequestFingerprinterProtocol
from xxhash import xxh3_64_hexdigest

from rack.adapters.scrapy.requests import AGAIN, STARTED

#: The origin of the item that is in the pipelines, in this task.
current: ContextVar[str | None] = ContextVar("current", default=None)

_MAKER = "rack_maker"  # in the meta of a request that is not filtered: who made it


class RackOrigins:
    """Tells :class:`RackItems` where items come from: spider middleware and item pipeline, the first of both.

    An origin is the fingerprint of the response's request, and the how manieth item of its callback it is. Equal
    requests that are not filtered have an equal fingerprint. So these are told apart by who made them.

    >>> from scrapy.utils.request import RequestFingerprinter
    >>> origins = RackOrigins(RequestFingerprinter())
    >>> page, item = Request("https://example.org/"), {"text": "hello"}
    >>> found = list(origins.process_spider_output(Response(page.url, request=page), [item]))
    >>> origins.process_item(item) is item
    True
    >>> current.get() == origins.origin(page) + ":0"
    True
    """

    _of: ClassVar[WeakKeyDictionary[Crawler, RackOrigins]] = WeakKeyDictionary()

    def __init__(self, fingerprinter: RequestFingerprinterProtocol) -> None:
        self._fingerprinter = fingerprinter
        # Of items that are on their way to the pipelines: the same object may be yielded twice.
        self._origins: defaultdict[int, deque[str]] = defaultdict(deque)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Return that of a crawl, which is the middleware and the pipeline at once. O(1).

        :param crawler: that of the crawl.
        :returns: always the same one.
        :raises AssertionError: never, in a crawl.
        """
        found = cls._of.get(crawler)
        if not isinstance(found, cls):
            assert crawler.request_fingerprinter is not None
            cls._of[crawler] = found = cls(crawler.request_fingerprinter)
        return found

    # As a spider middleware

    async def process_start(self, start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        number = 0
        async for each in start:
            if not isinstance(each, Request):
                self._put_down(each, "start", number)
                number += 1
            yield each

    def process_spider_output(self, response: Response, result: Iterable[Any]) -> Iterator[Any]:
        page = _Page(self, response)
        for each in result:
            page.see(each)
            yield each

    async def process_spider_output_async(self, response: Response, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        page = _Page(self, response)
        async for each in result:
            page.see(each)
            yield each

    def process_spider_exception(self, response: Response, exception: Exception) -> None:
        """A callback that closes the spider is not exhausted: its request is to be crawled again."""
        if isinstance(exception, CloseSpider) and response.request is not None:
            response.request.meta[AGAIN] = True

    # As an item pipeline

    def process_item(self, item: Any) -> Any:
        origins = self._origins.get(id(item))
        if origins:
            current.set(origins.popleft())
            if not origins:
                del self._origins[id(item)]
        else:
            current.set(None)
        return item

    def origin(self, request: Request) -> str:
        """Return what tells a request from others, and is the same when it is crawled again."""
        fingerprint = self._fingerprinter.fingerprint(request).hex()
        maker = request.meta.get(_MAKER) or request.meta.get(STARTED)
        return f"{fingerprint}-{maker}" if maker else fingerprint

    def _put_down(self, item: Any, origin: str, number: int) -> None:
        self._origins[id(item)].append(f"{origin}:{number}")


class _Page:
    """What a callback yields, as it yields it."""

    def __init__(self, origins: RackOrigins, response: Response) -> None:
        self._origins = origins
        self._origin = origins.origin(response.request) if response.request is not None else "none"
        self._items = 0
        self._requests = 0

    def see(self, each: Any) -> None:
        if not isinstance(each, Request):
            if each is not None:
                self._origins._put_down(each, self._origin, self._items)
                self._items += 1
            return
        if each.dont_filter:
            each.meta[_MAKER] = xxh3_64_hexdigest(f"{self._origin}:{self._requests}".encode())
            self._requests += 1
        else:
            each.meta.pop(_MAKER, None)  # what was taken over from the meta of the response
