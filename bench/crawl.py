"""Crawls by Scrapy, with its requests on Rack, in memory, in its own files, and in Redis: ``--only crawl``.

Redis is a server of its own on the loopback, which is started for each crawl and writes nothing to disk.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import types
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table

from bench import report
from bench.alone import alone
from bench.data import FULL
from bench.runner import Result, Series
from bench.workloads import Apart, check

PAGES, PAGES_QUICK = 3_000, 600
REQUESTS, REQUESTS_QUICK = 20_000, 4_000
WAITING, WAITING_QUICK = 1_000_000, 100_000
KNOWN = 9  # links of a page that were seen before, beside one that was not
FLYING = 16  # requests in progress
ROUNDS = 5  # at most


class Place:
    """Where requests are. An instance can be pickled."""

    label: ClassVar[str]

    def version(self) -> str | None:
        try:
            import scrapy  # noqa: F401
        except ImportError:
            return None
        return "there"

    def settings(self, directory: Path, port: int) -> dict[str, Any]:
        return {}


class OnRack(Place):
    label = "Rack"

    def settings(self, directory: Path, port: int) -> dict[str, Any]:
        return {"SCHEDULER": "rack.adapters.scrapy.RackScheduler", "JOBDIR": str(directory)}


class InMemory(Place):
    """Scrapy's default."""

    label = "Scrapy, in memory"


class Serialized(Place):
    """The same, with each request made into bytes and back, as all that has them on disk does."""

    label = "Scrapy, in memory, serialized"

    def settings(self, directory: Path, port: int) -> dict[str, Any]:
        return {"SCHEDULER_MEMORY_QUEUE": SerializedQueue, "SCHEDULER_START_MEMORY_QUEUE": SerializedQueue}


class InFiles(Place):
    """Scrapy's JOBDIR. It is whole only after a clean end."""

    label = "Scrapy, JOBDIR"

    def settings(self, directory: Path, port: int) -> dict[str, Any]:
        return {"JOBDIR": str(directory)}


class InRedis(Place):
    """scrapy-redis, as its README has it."""

    label = "scrapy-redis"

    def version(self) -> str | None:
        try:
            import scrapy_redis
        except ImportError:
            return None
        return str(scrapy_redis.__version__) if shutil.which("redis-server") else None

    def settings(self, directory: Path, port: int) -> dict[str, Any]:
        return {
            "SCHEDULER": "scrapy_redis.scheduler.Scheduler",
            "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
            "REDIS_URL": f"redis://127.0.0.1:{port}",
        }


class SerializedQueue:
    """Of requests as bytes: a memory queue of Scrapy's."""

    def __init__(self, spider: Any) -> None:
        self.spider = spider
        self.waiting: deque[bytes] = deque()

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> SerializedQueue:
        return cls(crawler.spider)

    def push(self, request: Any) -> None:
        import pickle

        self.waiting.append(pickle.dumps(request.to_dict(spider=self.spider), 4))

    def pop(self) -> Any:
        import pickle

        from scrapy.utils.request import request_from_dict

        return request_from_dict(pickle.loads(self.waiting.popleft()), spider=self.spider) if self.waiting else None

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.waiting)


class Crawling(Apart):
    """What these benchmarks have in common: each contestant in a process of its own, in turns."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many operations are timed."""

    @abstractmethod
    def seconds(self, place: Place, directory: Path, port: int) -> float:
        """Return how long they take."""

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        """Like :func:`bench.runner.run`."""
        places: list[Any] = self.rivals()
        result = Result(self.name, self.title, [Series(place.label, self.count) for place in places])
        order = list(zip(places, result.series, strict=True))
        with self.prepared():
            for _ in range(min(rounds, ROUNDS)):
                for place, series in order:
                    if place.version() is None:
                        series.problem = "not installed"
                    if not series.problem:
                        self._measure(place, series, base)
                    tick()
                order.reverse()
        return result

    @contextmanager
    def prepared(self) -> Iterator[None]:
        yield

    def _measure(self, place: Place, series: Series, base: Path | None) -> None:
        directory = Path(tempfile.mkdtemp(prefix="rack-bench-", dir=base))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, True)
            try:
                port = stack.enter_context(redis()) if isinstance(place, InRedis) else 0
                series.rounds.append([self.seconds(place, directory, port) / self.count])
            except Exception as error:
                series.fail(error)


class Pages(Crawling):
    """A crawl from its first page to its last."""

    name = "crawl"

    @property
    def title(self) -> str:
        return f"crawl: a site of {self.count:,} pages on the loopback, a page"

    @property
    def count(self) -> int:
        return PAGES if self.scale.ops >= FULL.ops else PAGES_QUICK

    def rivals(self) -> list[Any]:
        return [OnRack(), InMemory(), InFiles(), InRedis()]

    @contextmanager
    def prepared(self) -> Iterator[None]:
        from rack.cli.site import Site

        with Site(self.count, seed=self.seed, delay=0) as self.site:
            yield

    def seconds(self, place: Place, directory: Path, port: int) -> float:
        (seconds, pages), _ = alone(_crawl, place, directory, port, self.site.start)
        check(pages, len(self.site.there()), "pages")
        return float(seconds)


class Steps(Crawling):
    """The scheduler and the filter alone, without downloads: what it costs that requests are where they are."""

    name = "crawl-scheduler"

    @property
    def title(self) -> str:
        return (
            f"crawl-scheduler: {self.count:,} requests are put and taken, with {KNOWN} more each that were seen before;"
            " no downloads"
        )

    @property
    def count(self) -> int:
        return REQUESTS if self.scale.ops >= FULL.ops else REQUESTS_QUICK

    def rivals(self) -> list[Any]:
        return [OnRack(), InMemory(), Serialized(), InFiles(), InRedis()]

    def seconds(self, place: Place, directory: Path, port: int) -> float:
        return float(alone(_steps, place, directory, port, self.count)[0])


class Memory(Crawling):
    """What a process needs while requests wait."""

    name = "crawl-memory"

    @property
    def title(self) -> str:
        return f"crawl-memory: {self.count:,} requests are put, and wait"

    @property
    def count(self) -> int:
        return WAITING if self.scale.ops >= FULL.ops else WAITING_QUICK

    def rivals(self) -> list[Any]:
        return [OnRack(), InMemory(), InFiles()]

    def contest(self, rounds: int, base: Path | None, tick: Callable[[], None]) -> Result:
        self._needed: dict[str, list[int]] = {}
        return super().contest(1, base, tick)

    def seconds(self, place: Place, directory: Path, port: int) -> float:
        (seconds, needed), _ = alone(_fill, place, directory, port, self.count)
        self._needed[place.label] = needed
        return float(seconds)

    def table(self, result: Result) -> Table:
        table = report.result_table(result)
        lines = [
            f"{label}: {tenth / 1e6:,.0f} MB of memory with a tenth of them, {whole / 1e6:,.0f} MB with all"
            for label, (tenth, whole) in self._needed.items()
        ]
        table.caption = "\n".join([*lines, str(table.caption or "")])
        return table


CRAWL = [Pages, Steps, Memory]


@contextmanager
def redis() -> Iterator[int]:
    """Run a server; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        yield port
    finally:
        server.terminate()
        server.wait()


# What is done in a process of its own


def _crawl(place: Place, directory: Path, port: int, start: str) -> tuple[float, int]:
    """Crawl a site; return how many seconds it took, and how many pages there were."""
    warnings.simplefilter("ignore")
    from scrapy import Request, Spider
    from scrapy.crawler import CrawlerProcess

    pages = 0

    class Links(Spider):
        name = "links"

        async def start(self) -> Any:
            yield Request(start)

        def parse(self, response: Any) -> Any:
            nonlocal pages
            pages += 1
            yield from response.follow_all(css="a")

    ours = {"LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False, "RETRY_TIMES": 5, "MEMUSAGE_ENABLED": False}
    process = CrawlerProcess(ours | place.settings(directory, port))
    crawler = process.create_crawler(Links)
    process.crawl(crawler)
    process.start()
    assert crawler.stats is not None
    return crawler.stats.get_value("elapsed_time_seconds"), pages


@contextmanager
def _scheduler(place: Place, directory: Path, port: int) -> Iterator[tuple[Any, set[Any]]]:
    """Yield a scheduler without an engine, and the set of requests that it takes to be in progress."""
    warnings.simplefilter("ignore")
    from scrapy import Spider
    from scrapy.utils.httpobj import urlparse_cached
    from scrapy.utils.misc import build_from_crawler, load_object
    from scrapy.utils.test import get_crawler
    from twisted.internet import reactor  # noqa: F401  # which looping calls are of

    crawler: Any = get_crawler(Spider, place.settings(directory, port))
    crawler.spider = Spider.from_crawler(crawler, name="none")
    progress: set[Any] = set()
    downloader = types.SimpleNamespace(slots={}, get_slot_key=lambda request: urlparse_cached(request).hostname)
    slot = types.SimpleNamespace(inprogress=progress)
    crawler.engine = types.SimpleNamespace(_slot=slot, downloader=downloader)
    scheduler = build_from_crawler(load_object(crawler.settings["SCHEDULER"]), crawler)
    scheduler.open(crawler.spider)
    yield scheduler, progress
    scheduler.close("finished")


def _request(number: int) -> Any:
    from scrapy import Request

    url = f"http://127.0.0.1:8000/archive/pages/{number:07d}"
    return Request(url, headers={"Referer": "http://127.0.0.1:8000/"}, meta={"depth": 3})


def _steps(place: Place, directory: Path, port: int, count: int) -> float:
    """Take a request and put those that it leads to, so many times; return the seconds in the scheduler."""
    from scrapy.utils.request import fingerprint

    flying: deque[Any] = deque()
    seconds = 0.0
    clock = time.perf_counter
    with _scheduler(place, directory, port) as (scheduler, progress):
        for number in range(-2 * FLYING, 0):
            scheduler.enqueue_request(_request(10_000_000 + number))
        for number in range(count):
            links = [_request(number), *(_request(number * each // 10) for each in range(KNOWN))]
            for link in links:
                fingerprint(link)  # Scrapy remembers it, so that it costs all the same
            start = clock()
            taken = scheduler.next_request()
            flying.append(taken)
            progress.add(taken)
            for link in links:
                scheduler.enqueue_request(link)
            if len(flying) > FLYING:
                progress.remove(flying.popleft())
            seconds += clock() - start
        assert None not in flying
    return seconds


def _fill(place: Place, directory: Path, port: int, count: int) -> tuple[float, list[int]]:
    """Put so many requests; return the seconds, and the memory that is needed with a tenth of them, and with all."""
    needed = []
    with _scheduler(place, directory, port) as (scheduler, _):
        start = time.perf_counter()
        for number in range(count):
            scheduler.enqueue_request(_request(number))
            if number % 100 == 0 and hasattr(scheduler, "_turn"):
                scheduler._turn()  # no event loop runs here
            if number + 1 in (count // 10, count):
                needed.append(_private())
        return time.perf_counter() - start, needed


def _private() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10
