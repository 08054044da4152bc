"""The filter of duplicate requests, on disk, for a scheduler of another kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import BinaryIO, Self

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.utils.job import job_dir
from scrapy.utils.request import RequestFingerprinterProtocol

from rack.errors import NotOpenError
from rack.set import PersistentSet

_SIZE = 2  # bytes of the size in front of each fingerprint


class RackDupeFilter(RFPDupeFilter):
    """Filters the requests that were seen, as Scrapy's own does, which has all of them in memory: ``DUPEFILTER_CLASS``.

    They are in a :class:`rack.PersistentSet` in ``JOBDIR``, and outlive any kill. What is in its ``requests.seen``, of
    Scrapy's own filter, was seen. Without ``JOBDIR`` they are in a temporary directory, until the crawl ends.

    A request is seen when it is asked for, as the scheduler is not told of this filter's store: one that is killed
    before it has the request on disk loses it. :class:`rack.adapters.scrapy.RackScheduler` does not.

    >>> page = Request("https://example.org/?b=2&a=1")
    >>> for run in "first", "second":
    ...     filter = RackDupeFilter(str(tmp))
    ...     filter.open()
    ...     print(run, filter.request_seen(page), filter.request_seen(Request("https://example.org/?a=1&b=2")))
    ...     filter.close("finished")
    first False True
    second True True
    """

    def __init__(
        self,
        path: str | None = None,
        debug: bool = False,
        *,
        fingerprinter: RequestFingerprinterProtocol | None = None,
    ) -> None:
        super().__init__(None, debug, fingerprinter=fingerprinter)
        self._path = path
        self._temporary: TemporaryDirectory[str] | None = None
        self._seen: PersistentSet[bytes] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it. O(1).

        :param crawler: that of the crawl.
        :returns: the filter, not open yet.
        :raises OSError: ``JOBDIR`` cannot be made.
        """
        debug = crawler.settings.getbool("DUPEFILTER_DEBUG")
        return cls(job_dir(crawler.settings), debug, fingerprinter=crawler.request_fingerprinter)

    def open(self) -> None:
        """Open its store. O(k) for k fingerprints in ``requests.seen``.

        :raises RackError: it cannot be opened.
        """
        if self._path is None:
            self._temporary = TemporaryDirectory(prefix="rack-seen-")
        directory = self._path or self._temporary.name  # type: ignore[union-attr]  # one of them is there
        self._seen = PersistentSet(os.path.join(directory, "seen"), serdes="bytes")
        self._seen.open()
        scrapys = os.path.join(directory, "requests.seen")
        if os.path.exists(scrapys):
            with open(scrapys, "rb") as file:
                self._seen.update(fingerprints(file))

    def request_seen(self, request: Request) -> bool:
        """Return whether a request was seen; from now on it was. O(log n). Atomic, for all processes.

        :param request: with its fingerprint by ``REQUEST_FINGERPRINTER_CLASS``.
        :returns: True if one with the same fingerprint was asked for before.
        :raises RackError: its store cannot be written.
        """
        if self._seen is None:
            raise NotOpenError("the filter is not open: a scheduler opens it")
        return not self._seen.add(bytes.fromhex(self.request_fingerprint(request)))

    def close(self, reason: str) -> None:
        """Close the store. O(1).

        :param reason: why the spider is closed.
        :raises RackError: what is in memory cannot be written.
        """
        if self._seen is not None:
            self._seen.close()
        if self._temporary is not None:
            self._temporary.cleanup()


def fingerprints(file: BinaryIO) -> Iterator[bytes]:
    """Yield what is in Scrapy's ``requests.seen``: fingerprints behind their size; before Scrapy 2.15 lines of digits.

    A crawl that was killed may have left half of one at the end.
    """
    first = file.read(1)
    file.seek(0)
    if first not in (b"", b"\0"):  # a size is less than 256
        for line in file:
            digits = line.rstrip(b"\r\n")
            if line != digits:
                yield bytes.fromhex(digits.decode("ascii"))
        return
    while len(size := file.read(_SIZE)) == _SIZE:
        fingerprint = file.read(int.from_bytes(size, "big"))
        if len(fingerprint) == int.from_bytes(size, "big"):
            yield fingerprint
