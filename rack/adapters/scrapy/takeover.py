"""A crawl that Scrapy's own scheduler has begun in JOBDIR, and that goes on with Rack."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.pqueues import DownloaderAwarePriorityQueue
from scrapy.utils.misc import build_from_crawler, load_object

from rack import exists
from rack.adapters.scrapy.dupefilter import fingerprints
from rack.queue import PersistentQueue
from rack.set import PersistentSet

logger = logging.getLogger(__name__)

_SETTINGS = "SCHEDULER_PRIORITY_QUEUE, SCHEDULER_DISK_QUEUE and SCHEDULER_START_DISK_QUEUE"


class ScrapysCrawl:
    """What there is of it in ``JOBDIR/requests.queue`` and ``JOBDIR/requests.seen``.

    Its files stay as they are until all that they hold is in Rack's store, on the disk. They are read from a copy, as
    Scrapy's queues can but be emptied. So a kill costs nothing: the next run does it again, and each request has a key.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._queue = self._directory / "requests.queue"

    def is_there(self) -> bool:
        """Return whether there is a crawl that can go on; tell of one that cannot."""
        state = self._queue / "active.json"
        paths = [self._queue, *self._queue.rglob("*")]  # of directories, too: they tell what was removed
        if not any(path.is_file() for path in paths):
            return False
        # Scrapy writes the state last, when a crawl is stopped. If it is not newer than all, its queues are not whole.
        if state in paths and max(path.stat().st_mtime_ns for path in paths) <= state.stat().st_mtime_ns:
            return True
        logger.warning(
            "%(path)s is of a crawl by Scrapy's own scheduler that was not stopped in good order, so it does not hold"
            " all requests: it is not taken over, and the crawl begins anew. Remove it, and requests.seen, to have no"
            " such warning",
            {"path": self._queue},
        )
        return False

    def take_over(
        self, crawler: Crawler, queue: PersistentQueue[bytes], put: Callable[[Request], None], write: Callable[[], None]
    ) -> None:
        """Put all its requests, in its order, and have what it has seen known. O(n log n).

        :param put: puts one request, which may be put for the second time.
        :param write: writes what was put.
        :raises ValueError: the requests cannot be read.
        """
        count = 0
        for request in self._requests(crawler):
            put(request)
            count += 1
            if count % 1000 == 0:
                write()
        write()
        queue.remember(self._seen())  # behind the requests: they have been seen, too
        queue.sync()
        os.rename(self._queue, f"{self._queue}.taken-over-{time.strftime('%Y%m%d-%H%M%S')}")
        logger.info(
            "A crawl by Scrapy's own scheduler goes on (%(count)d requests taken over from %(path)s)",
            {"count": count, "path": self._queue},
            extra={"spider": crawler.spider},
        )

    def _requests(self, crawler: Crawler) -> Iterator[Request]:
        copy = self._directory / "requests.queue-copy"
        shutil.rmtree(copy, ignore_errors=True)  # of somebody who was killed
        shutil.copytree(self._queue, copy)
        try:
            waiting = self._opened(crawler, copy)
            while left := len(waiting):
                try:
                    request = waiting.pop()
                except Exception as error:
                    if len(waiting) == left:
                        raise self._unreadable(error) from error
                    logger.error(
                        "A request of Scrapy's own scheduler cannot be read, and is left out",
                        exc_info=True,
                        extra={"spider": crawler.spider},
                    )
                    continue
                if request is not None:
                    yield request
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _opened(self, crawler: Crawler, directory: Path) -> Any:
        settings = crawler.settings
        kind = load_object(settings["SCHEDULER_PRIORITY_QUEUE"])
        start = settings.get("SCHEDULER_START_DISK_QUEUE")
        try:
            state = json.loads((directory / "active.json").read_text(encoding="utf-8"))
            if state and isinstance(state, dict) != issubclass(kind, DownloaderAwarePriorityQueue):
                raise ValueError(f"its state is not of a {kind.__name__}")
            return build_from_crawler(
                kind,
                crawler,
                downstream_queue_cls=load_object(settings["SCHEDULER_DISK_QUEUE"]),
                key=str(directory),
                startprios=state,
                start_queue_cls=load_object(start) if start else None,
            )
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(
            f"{self._queue}: the requests of Scrapy's own scheduler cannot be read ({error}). Set {_SETTINGS} as they"
            " were, or remove the directory, and requests.seen, to begin anew"
        )

    def _seen(self) -> Iterator[bytes]:
        scrapys = self._directory / "requests.seen"
        if scrapys.exists():
            with scrapys.open("rb") as file:
                yield from fingerprints(file)
        ours = str(self._directory / "seen")  # of a RackDupeFilter
        if exists(ours):
            with PersistentSet[bytes](ours, serdes="bytes", flag="r") as seen:
                yield from seen
