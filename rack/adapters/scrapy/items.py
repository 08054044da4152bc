"""The items of a crawl, in a store."""

from __future__ import annotations

import json
import uuid
from typing import Any, Self

from itemadapter import ItemAdapter
from scrapy.crawler import Crawler
from scrapy.utils.serialize import ScrapyJSONEncoder

from rack.adapters.scrapy import place
from rack.adapters.scrapy.origins import current
from rack.dict import PersistentDict
from rack.errors import SerializationError


class RackItems:
    """Keeps items in a store, each under the request that made it: an item pipeline, the last one.

    The key is the fingerprint of the request, and the how manieth item of its callback it is: ``"5f3a...:0"``. What
    comes again, because a page was crawled again after a kill, takes its own place, and counts once. The value is what
    a feed in JSON has. ``rack dump`` exports the store, which is called "items", in ``JOBDIR`` or beside the requests.

    >>> from scrapy import Spider
    >>> from scrapy.utils.test import get_crawler
    >>> crawler = get_crawler(Spider, {"JOBDIR": str(tmp)})
    >>> crawler.spider = Spider.from_crawler(crawler, name="pages")
    >>> pipeline = RackItems.from_crawler(crawler)
    >>> pipeline.open_spider()
    >>> for number in 1, 2:  # what :class:`RackOrigins` does, of a page that is crawled twice
    ...     _ = current.set("5f3a:0")
    ...     item = pipeline.process_item({"number": number})
    >>> pipeline.close_spider()
    >>> with PersistentDict(tmp / "items") as items:
    ...     dict(items)
    {'5f3a:0': {'number': 2}}
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._encoder = ScrapyJSONEncoder()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it. O(1).

        :param crawler: that of the crawl.
        :returns: a pipeline, not open yet.
        :raises ValueError: RACK_STORE has a value that is not allowed.
        """
        return cls(crawler)

    def open_spider(self) -> None:
        """Open the store, or make it. O(1).

        :raises RackError: it cannot be opened.
        """
        assert self._crawler.spider is not None
        name = place.store_name(self._crawler.settings, self._crawler.spider.name, "items")
        self._items: PersistentDict[str, Any] = PersistentDict(name, serdes="json")
        self._items.open()

    def close_spider(self) -> None:
        """Close the store. O(1).

        :raises RackError: what is in memory cannot be written.
        """
        self._items.close()

    def process_item(self, item: Any) -> Any:
        """Store an item. O(log n). Atomic. It is stored before its request is done.

        :param item: of any type that Scrapy takes.
        :returns: the item.
        :raises TypeError: it holds what JSON does not have, and what is no date, Decimal or the like.
        :raises RackError: it cannot be stored.
        """
        value = ItemAdapter(item).asdict()
        key = current.get() or uuid.uuid4().hex
        try:
            is_new = self._store(key, value)
        except SerializationError:
            is_new = self._store(key, json.loads(self._encoder.encode(value)))
        assert self._crawler.stats is not None
        self._crawler.stats.inc_value("rack/items" if is_new else "rack/items_again")
        return item

    def _store(self, key: str, value: Any) -> bool:
        if self._items.add(key, value):
            return True
        self._items[key] = value
        return False
