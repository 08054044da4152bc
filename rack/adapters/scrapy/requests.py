"""Requests of a crawl: Scrapy's objects on one side, jobs of a queue on the other."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable

from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.utils.request import request_from_dict

from rack.adapters.scrapy.share import Claimed, Share
from rack.adapters.scrapy.tally import Tally
from rack.errors import told
from rack.jobs.records import LEAST_PRIORITY, MOST_PRIORITY

logger = logging.getLogger(__name__)

#: In the meta of a request: it is not over when the engine has done with it, but is to be crawled again.
AGAIN = "rack_again"
#: In the meta of a start request that was queued: the how manieth one of its kind it is.
STARTED = "rack_start"

_VERBATIM = "verbatim_url"  # in the meta of a request: its URL is taken as it is, by Scrapy 2.19 and later


class Requests:
    """The requests of a crawl, as the scheduler has them: what it has in place of a disk queue.

    A request that was handed out is over when the engine has done with it: its callback is exhausted, its items have
    passed the pipelines, and what it has led to is put; a retry or a redirect is put as a request of its own.

    :param lane: returns the name of the lane of a request.
    """

    def __init__(self, share: Share, crawler: Crawler, stats: Tally, lane: Callable[[Request], str]) -> None:
        self._share = share
        self._lane = lane
        self._crawler = crawler
        self._stats = stats
        self._flying: dict[Request, Claimed] = {}
        #: The unique key of the request that is pushed next; None: it has none.
        self.key: bytes | None = None

    def __len__(self) -> int:
        """Return how many requests of the whole crawl are not over, without those that this process is at work on."""
        self.settle()
        return max(0, len(self._share) - len(self._flying))

    def write(self) -> None:
        self._share.write()

    def claim(self) -> bool:
        return self._share.claim()

    def give_back_unused(self) -> None:
        self._share.give_back_unused()

    def push(self, request: Request) -> None:
        """:raises ValueError: the request cannot be stored."""
        key, self.key = self.key, None
        try:
            data = dumped(request, self._crawler.spider)
        except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
            if key is not None:
                self._share.keep(key)
            raise ValueError(str(error)) from error
        priority = min(max(request.priority, LEAST_PRIORITY), MOST_PRIORITY)
        self._share.put(data, key, priority, self._lane(request))

    def pop(self) -> Request | None:
        while (job := self._share.next() or self._claimed()) is not None:
            try:
                request = loaded(job.item, self._crawler.spider)
            except Exception as error:
                self._refuse(job, error)
                continue
            if job.claims > 1:
                self._stats.inc_value("rack/claimed_again")
            self._flying[request] = job
            return request
        return None

    def _claimed(self) -> Claimed | None:
        self.settle()  # what is over is written before requests are claimed
        self._share.claim()
        return self._share.take()

    def _refuse(self, job: Claimed, error: Exception) -> None:
        logger.error(
            "A stored request cannot be read (%(reason)s): it has failed, see 'rack queue --failed': %(data)r",
            {"reason": told(error), "data": job.item[:200]},
            exc_info=True,
            extra={"spider": self._crawler.spider},
        )
        self._stats.inc_value("rack/unreadable")
        self._share.fail(job, told(error))

    def settle(self) -> None:
        """Find out which requests are over."""
        if not self._flying:
            return
        slot = self._crawler.engine._slot  # nothing public tells when a request is over
        assert slot is not None
        for request in self._flying.keys() - slot.inprogress:
            job = self._flying.pop(request)
            if request.meta.get(AGAIN):
                self._share.release(job)
            else:
                self._share.done(job)

    def extend(self) -> None:
        """Extend the leases of all that this process has in hand."""
        self._share.extend(self._flying.values())

    def close(self) -> None:
        """Write what is to be written, and give back all that this process has in hand."""
        self._share.close(self._flying.values())


class QueueFilter(RFPDupeFilter):
    """What is seen is in the queue, and the scheduler asks that. This tells of what was filtered, as Scrapy's does."""

    tally: Tally

    def request_seen(self, request: Request) -> bool:
        return False

    def log(self, request: Request, spider: Spider) -> None:
        if self.debug or self.logdupes:
            super().log(request, spider)
        else:
            self.tally.inc_value("dupefilter/filtered")


def dumped(request: Request, spider: Spider | None) -> bytes:
    """Return a request as bytes.

    :raises Exception: it has something that cannot be pickled, or a callback that is no method of the spider.
    """
    described = request.to_dict(spider=spider)
    if "_class" not in described:
        described = {name: value for name, value in described.items() if value}  # the others are empty by default
    return pickle.dumps(described, 4)


def loaded(data: bytes, spider: Spider | None) -> Request:
    """Return the request that these bytes are of.

    :raises Exception: it cannot be made.
    """
    described = pickle.loads(data)
    if "_class" in described:
        return request_from_dict(described, spider=spider)
    # As request_from_dict does it, but the URL is not made safe again, which takes most of its time.
    arguments = {name: value for name, value in described.items() if name in Request.attributes}
    for name in ("callback", "errback"):
        if name in arguments:
            arguments[name] = getattr(spider, arguments[name])
    meta = described.get("meta") or {}
    arguments["meta"] = meta | {_VERBATIM: True}
    request = Request(**arguments)
    if _VERBATIM not in meta:
        del request.meta[_VERBATIM]
    return request
