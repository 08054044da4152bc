"""The cache of responses, in a store."""

from __future__ import annotations

import logging
import os
from time import time
from typing import Any
from urllib.parse import quote

from scrapy import Request, Spider
from scrapy.http import Headers, Response
from scrapy.responsetypes import responsetypes
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object
from scrapy.utils.project import data_path
from scrapy.utils.python import global_object_name
from scrapy.utils.request import RequestFingerprinterProtocol

from rack.dict import PersistentDict

logger = logging.getLogger(__name__)

_NOT_KEPT = ("request", "certificate")  # attributes of a response that are of one crawl


class RackCacheStorage:
    """Keeps responses in a :class:`rack.PersistentDict`: ``HTTPCACHE_STORAGE``.

    It is in ``HTTPCACHE_DIR``, and has the spider's name. Any number of processes may share it. After
    ``HTTPCACHE_EXPIRATION_SECS`` a response counts as not there, until it is stored anew; 0: never.

    >>> from scrapy.settings import Settings
    >>> from scrapy.utils.test import get_crawler
    >>> crawler = get_crawler(Spider)
    >>> spider = Spider.from_crawler(crawler, name="pages")
    >>> storage = RackCacheStorage(Settings({"HTTPCACHE_DIR": str(tmp), "HTTPCACHE_EXPIRATION_SECS": 0}))
    >>> storage.open_spider(spider)
    >>> page = Request("https://example.org/")
    >>> storage.store_response(spider, page, Response(page.url, body=b"hello"))
    >>> storage.retrieve_response(spider, page).body
    b'hello'
    >>> storage.retrieve_response(spider, Request("https://example.org/other")) is None
    True
    >>> storage.close_spider(spider)
    """

    def __init__(self, settings: BaseSettings) -> None:
        self._directory = data_path(settings["HTTPCACHE_DIR"], createdir=True)
        self.expiration_secs: int = settings.getint("HTTPCACHE_EXPIRATION_SECS")

    def open_spider(self, spider: Spider) -> None:
        """Open the store, or make it. O(1).

        :param spider: the spider, whose name it has.
        :raises RackError: it cannot be opened.
        """
        name = os.path.join(self._directory, quote(spider.name, safe=" "))
        self._responses: PersistentDict[bytes, tuple[float, dict[str, Any]]] = PersistentDict(name, serdes="pickle")
        self._responses.open()
        fingerprinter = spider.crawler.request_fingerprinter
        assert fingerprinter is not None
        self._fingerprinter: RequestFingerprinterProtocol = fingerprinter
        logger.debug("Using Rack cache storage in %(cachepath)s", {"cachepath": name}, extra={"spider": spider})

    def close_spider(self, spider: Spider) -> None:
        """Close the store. O(1).

        :param spider: the spider.
        :raises RackError: what is in memory cannot be written.
        """
        self._responses.close()

    def retrieve_response(self, spider: Spider, request: Request) -> Response | None:
        """Return the response that is stored for a request. O(log n).

        :param spider: the spider.
        :param request: its ``meta["cache_timestamp"]`` will say when the response was stored.
        :returns: None if there is none, or if it has expired.
        :raises DeserializationError: it cannot be read. Scrapy takes that for a response that is not there.
        """
        found = self._responses.get(self._fingerprinter.fingerprint(request))
        if found is None:
            return None
        stored, response = found
        if 0 < self.expiration_secs < time() - stored:
            return None
        request.meta["cache_timestamp"] = stored
        return _loaded(response)

    def store_response(self, spider: Spider, request: Request, response: Response) -> None:
        """Store a response. O(log n). Atomic.

        :param spider: the spider.
        :param request: what it answers.
        :param response: takes the place of one that is there.
        :raises RackError: it cannot be stored.
        """
        self._responses[self._fingerprinter.fingerprint(request)] = (time(), _dumped(response))


def _dumped(response: Response) -> dict[str, Any]:
    kept = {name: getattr(response, name) for name in response.attributes if name not in _NOT_KEPT}
    kind = type(response)
    return kept | {"headers": dict(response.headers), "class": None if kind is Response else global_object_name(kind)}


def _loaded(stored: dict[str, Any]) -> Response:
    name, headers = stored.pop("class"), Headers(stored.pop("headers"))
    kind: type[Response] = (
        responsetypes.from_args(headers=headers, url=stored["url"], body=stored["body"])
        if name is None
        else load_object(name)
    )
    return kind(headers=headers, **stored)
