"""The scheduler: Scrapy's own, with a queue on disk that processes share and that survives them."""

from __future__ import annotations

import logging
from collections import Counter
from time import monotonic
from typing import Any, Self

from scrapy import Request, Spider
from scrapy.core.scheduler import Scheduler
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.pqueues import DownloaderAwarePriorityQueue
from scrapy.utils.asyncio import create_looping_call
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.job import job_dir
from scrapy.utils.misc import build_from_crawler, load_object
from twisted.internet.defer import Deferred

from rack import exists
from rack.adapters.scrapy import place
from rack.adapters.scrapy.dupefilter import RackDupeFilter
from rack.adapters.scrapy.requests import STARTED, QueueFilter, Requests
from rack.adapters.scrapy.share import Share
from rack.adapters.scrapy.slots import OneSlot, Slots
from rack.adapters.scrapy.takeover import ScrapysCrawl
from rack.adapters.scrapy.tally import Tally
from rack.errors import RackError
from rack.queue import PersistentQueue

logger = logging.getLogger(__name__)

_TURN = 0.05  # seconds between two looks at what is over, and, if there was nothing to do, at what can be claimed


class RackScheduler(Scheduler):
    """Scrapy's scheduler, with its requests in a :class:`rack.PersistentQueue`: ``SCHEDULER``.

    The queue is in ``JOBDIR``, or is shared by all processes that have the same ``RACK_STORE`` and spider. A request is
    seen when it is queued, in the same transaction. Whoever takes it has a lease of it, for ``RACK_LEASE`` seconds,
    which is extended as long as it is in progress. It is done when its callback is exhausted and all that came of it is
    stored, or when it has failed. What was in progress in a process that is killed is crawled again.

    The slot of the downloader (a host, that is) with the fewest downloads comes next, and of it the highest priority,
    and then what was queued first. With a ``SCHEDULER_PRIORITY_QUEUE`` that is no ``DownloaderAwarePriorityQueue``
    slots do not matter. Requests that cannot be serialized are kept in memory, as Scrapy does it.

    A crawl that Scrapy's own scheduler has begun in ``JOBDIR``, and has stopped in good order, goes on.

    ``DUPEFILTER_CLASS`` may be one of a project's own; what it has seen is kept as it keeps it.

    >>> import subprocess, sys
    >>> spider = tmp / "pages.py"
    >>> _ = spider.write_text('''
    ... from scrapy import Request, Spider
    ...
    ... class Pages(Spider):
    ...     name = "pages"
    ...     start_urls = ["data:,1"]
    ...
    ...     def parse(self, response):
    ...         if (number := int(response.text)) < 5:
    ...             yield Request(f"data:,{number + 1}")
    ...         yield Request("data:,1")  # was seen
    ... ''')
    >>> settings = ["-s", f"JOBDIR={tmp / 'job'}", "-s", "SCHEDULER=rack.adapters.scrapy.RackScheduler"]
    >>> subprocess.run([sys.executable, "-m", "scrapy", "runspider", spider, *settings], capture_output=True).returncode
    0
    >>> with PersistentQueue(tmp / "job" / "requests", flag="r") as requests:
    ...     requests.counts()
    Counts(waiting=0, delayed=0, leased=0, done=6, failed=0)
    """

    _requests: Requests

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it. O(1).

        :param crawler: that of the crawl, with its settings.
        :returns: a scheduler, not open yet.
        :raises ValueError: RACK_STORE or RACK_LEASE has a value that is not allowed.
        :raises NotConfigured: there is neither JOBDIR nor RACK_STORE.
        """
        settings = crawler.settings
        filter_class = load_object(settings["DUPEFILTER_CLASS"])
        if filter_class in (RFPDupeFilter, RackDupeFilter):
            debug = settings.getbool("DUPEFILTER_DEBUG")
            filter = QueueFilter(None, debug, fingerprinter=crawler.request_fingerprinter)
        else:
            filter = build_from_crawler(filter_class, crawler)
        return cls(
            filter,
            mqclass=load_object(settings["SCHEDULER_MEMORY_QUEUE"]),
            logunser=settings.getbool("SCHEDULER_DEBUG"),
            stats=crawler.stats,
            pqclass=load_object(settings["SCHEDULER_PRIORITY_QUEUE"]),
            crawler=crawler,
        )

    def open(self, spider: Spider) -> Deferred[None] | None:
        """Open the queue, or make it. O(1).

        :param spider: the spider, whose name is a part of RACK_STORE's.
        :returns: what the filter's ``open`` returns.
        :raises RackError: it cannot be opened.
        :raises ValueError: Scrapy's own scheduler has left requests in JOBDIR that cannot be read.
        """
        crawler = self.crawler
        assert crawler is not None
        assert crawler.stats is not None
        self.spider = spider
        self._tally = Tally(crawler.stats)
        self.stats = self._tally  # type: ignore[assignment]  # of which Scheduler uses what it has
        self.mqs = self._mq()
        lease = place.lease(crawler.settings)
        name = place.store_name(crawler.settings, spider.name, "requests")
        # One shard: the order is exact, and what a page leads to is there in the transaction in which it is done.
        shards = None if exists(name) else 1
        queue: PersistentQueue[bytes] = PersistentQueue(name, lease, unique="ever", serdes="bytes", shards=shards)
        queue.open()
        is_aware = self.pqclass is not None and issubclass(self.pqclass, DownloaderAwarePriorityQueue)
        slots = Slots(crawler) if is_aware else OneSlot()
        share = Share(queue, lease, self._tally, slots.load)
        self._requests = Requests(share, crawler, self._tally, slots.of)
        self.dqs = self._requests  # type: ignore[assignment]  # of which Scheduler uses what it has
        self._knows = share.knows
        self._fingerprint = None
        if isinstance(self.df, QueueFilter):
            self._fingerprint = self.df.fingerprinter.fingerprint
            self.df.tally = self._tally
        self._starts: Counter[bytes] = Counter()
        try:
            self._take_over(queue)
        except BaseException:
            queue.close()
            raise
        self._tell(queue)
        self._is_waiting = self._has_failed = False
        self._pause = lease / 3
        self._extended = monotonic()
        self._loop = create_looping_call(self._turn)
        self._loop.start(_TURN, now=False)
        return self.df.open()

    def _take_over(self, queue: PersistentQueue[bytes]) -> None:
        """Go on with a crawl that Scrapy's own scheduler has begun in JOBDIR, if there is one."""
        assert self.crawler is not None
        settings = self.crawler.settings
        directory = job_dir(settings)
        if not directory or settings.get("RACK_STORE") or not (scrapys := ScrapysCrawl(directory)).is_there():
            return
        numbers: Counter[bytes] = Counter()

        def put(request: Request) -> None:
            key = self._fingerprint_of(request)
            if request.dont_filter or self._fingerprint is None:
                numbers[key] += 1
                key = b"taken over %d:" % numbers[key] + key
                if self._was_started(request):
                    return
            self._requests.key = self._requests.key or key
            self._requests.push(request)

        scrapys.take_over(self.crawler, queue, put, self._requests.write)
        self._starts.clear()  # this process makes its start requests anew

    def _tell(self, queue: PersistentQueue[bytes]) -> None:
        if waiting := len(queue):
            logger.info(
                "Resuming crawl (%(queuesize)d requests scheduled)",
                {"queuesize": waiting},
                extra={"spider": self.spider},
            )
        elif done := queue.counts().done:
            logger.info(
                "This crawl was finished: all its %(done)d requests are done, and only new ones are crawled."
                " 'rack rm %(name)s' has it begin anew",
                {"done": done, "name": queue.name},
                extra={"spider": self.spider},
            )

    def close(self, reason: str) -> Deferred[None] | None:
        """Write all there is, give back what is not done, and close the queue. O(k log n) for k requests in hand.

        :param reason: why the spider is closed.
        :returns: what the filter's ``close`` returns.
        :raises RackError: something could not be written. It was not done, then, and is crawled again.
        """
        self._loop.stop()
        try:
            # After a failure nobody knows whether all that came of what was in progress was put.
            if not self._has_failed:
                self._requests.settle()
            self._requests.close()
        finally:
            self._tally.hand_on()
        return self.df.close(reason)

    def enqueue_request(self, request: Request) -> bool:
        """Put a request, unless it was seen. O(log n).

        It is in the queue at the next turn of the event loop's, and before the request that it comes from is done.

        :param request: what to crawl.
        :returns: whether it will be crawled.
        :raises Exception: whatever a filter of a project's own raises.
        """
        try:
            if request.dont_filter:
                self._requests.key = None
                if self._was_started(request):
                    return False
            elif self._fingerprint is not None:  # most requests were seen, so this is short
                key = self._fingerprint(request)
                if self._knows(key):
                    self.df.log(request, self.spider)
                    return False
                self._requests.key = key
            return super().enqueue_request(request)
        except RackError as error:
            self._fail(error)
            return False

    def next_request(self) -> Request | None:
        """Return the request that comes next, which is leased to this process. O(log n).

        :returns: None if there is none, or none yet: others may be at work on some.
        :raises Exception: never one of Rack's: the spider is closed, then, with the reason "rack_error".
        """
        if self._has_failed:
            return None
        try:
            request = super().next_request()
        except RackError as error:
            self._fail(error)
            return None
        self._is_waiting = request is None
        return request

    def has_pending_requests(self) -> bool:
        """Return whether the crawl is still going on, be it in other processes. O(1).

        :returns: False if no request is left that this process does not have in hand.
        :raises Exception: never one of Rack's.
        """
        if self._has_failed:
            return False
        try:
            return super().has_pending_requests()
        except RackError as error:
            self._fail(error)
            return False

    def _was_started(self, request: Request) -> bool:
        """Return whether a start request was queued before, by this process or an earlier or another one.

        A spider's start requests are not filtered by what they are, but each process of a crawl makes them anew. So of
        equal ones the first of each process is the same, and the second, and so on. Retries and redirects of a start
        request have its meta. They are requests of their own.
        """
        if not request.meta.get("is_start_request") or STARTED in request.meta:
            return False
        fingerprint = self._fingerprint_of(request)
        number = self._starts[fingerprint]
        self._starts[fingerprint] += 1
        key = b"start %d:" % number + fingerprint
        if self._knows(key):
            self._tally.inc_value("rack/started_before")
            return True
        request.meta[STARTED] = number
        self._requests.key = key
        return False

    def _fingerprint_of(self, request: Request) -> bytes:
        assert self.crawler is not None
        assert self.crawler.request_fingerprinter is not None
        return self.crawler.request_fingerprinter.fingerprint(request)

    def _turn(self) -> None:
        """What is done twenty times a second."""
        if self._has_failed:
            return
        try:
            requests = self._requests
            requests.settle()
            requests.write()
            self._tally.hand_on()
            requests.give_back_unused()
            if monotonic() - self._extended > self._pause:
                self._extended = monotonic()
                requests.extend()
            if self._is_waiting and (requests.claim() or not len(requests)):
                self._is_waiting = False
                self._slot().nextcall.schedule()
        except RackError as error:
            self._fail(error)

    def _slot(self) -> Any:
        assert self.crawler is not None
        assert self.crawler.engine is not None
        return self.crawler.engine._slot

    def _fail(self, error: RackError) -> None:
        """Close the spider, as its requests cannot be stored: nothing that is in progress is done."""
        if self._has_failed:
            return
        self._has_failed = True
        logger.error(
            "The crawl's store has failed, so the spider is closed: %(error)s", {"error": error}, exc_info=error
        )
        assert self.crawler is not None
        assert self.crawler.engine is not None
        deferred_from_coro(self.crawler.engine.close_spider_async(reason="rack_error"))
