"""``rack demo --crawl``: a crawl whose workers are killed again and again, and that loses no page."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin, urlsplit

from rack import PersistentDict, PersistentQueue
from rack.cli.failure import Failure, counted
from rack.cli.output import say
from rack.cli.screen import Screen
from rack.cli.signals import ENDING, guard
from rack.cli.site import Kind, Site
from rack.jobs.job import Counts, Job

if TYPE_CHECKING:
    from rich.table import Table

TODO, PAGES = "demo-todo", "demo-pages"  # names of the demo's own: flag="n" will replace no store of the user's
HOSTS = 8
_HREF = re.compile(rb'href="([^"]+)"')
_LONG = 3600.0  # seconds
_LOOK = 0.05  # seconds between two looks at the queue
_DRAW = 0.2  # seconds between two pictures on a terminal
_LINE = 1.0  # seconds between two lines off a terminal


@dataclass
class Crawled:
    """A crawl that is over."""

    site: Site
    place: Path
    killed: int
    seconds: float

    def prove(self) -> None:
        """Say what it comes to.

        :raises Failure: a page is lost, or more were served again than workers were killed.
        """
        site = self.site
        with _todo(self.place, "r") as todo, _pages(self.place, "r") as pages:
            counts, stored = todo.counts(), {*pages}
            there = site.there()
            wrong = sum(url in there and body != site.body(site.number(url) or 0) for url, body in pages.items())
        gone = sum(site.kind(number) is Kind.GONE for number in range(site.pages))
        again = sum(count - 1 for count in site.served().values() if count)
        rows = {
            "pages of the site": len(there),
            "stored": len(stored),
            "lost": len(there - stored),
            "served again": again,
            "workers killed": self.killed,
            "pages a second": round(site.pages / self.seconds),
        }
        for name, number in rows.items():
            say(f"{name:17} {number:7,}")
        if stored != there or wrong:
            lost, many = len(there - stored), wrong + len(stored - there)
            raise Failure(f"{counted(lost, 'page')} lost, {many:,} wrong or too many. This is a bug")
        if again > self.killed:
            raise Failure(f"{counted(again, 'page')} served again, {counted(self.killed, 'kill')}. This is a bug")
        if (counts.done, counts.failed) != (site.pages - gone, gone):
            raise Failure(
                f"{gone:,} of {counted(site.pages, 'page')} are gone, and the queue says {counts}. This is a bug"
            )


def crawl(place: Path, pages: int, workers: int, kills: int) -> Crawled:
    """Crawl a site of this machine into two stores at ``place``, while workers are killed."""
    with Site(pages, hosts=HOSTS) as site:
        with _todo(place, "n") as todo, _pages(place, "n"):
            _put(todo, site.start, site.start)
        with Screen() as screen, _Workers(place, site.start) as crew:
            began = time.monotonic()
            _run(crew, workers, _View(screen, place, pages, crew), _moments(pages, kills))
            return Crawled(site, place, crew.killed, time.monotonic() - began)


def _todo(place: Path, flag: str) -> PersistentQueue[str]:
    # No lease is over because Ctrl-Z has stopped everybody for a while. That a worker is dead is seen soon.
    return PersistentQueue(place / TODO, lease=_LONG, unique="ever", max_claims=10, flag=flag)


def _pages(place: Path, flag: str) -> PersistentDict[str, bytes]:
    return PersistentDict(place / PAGES, flag=flag)


# What a worker does


def _work(place: Path, start: str, parent: int) -> None:
    # Ctrl-C reaches every process of a terminal: it is the parent that decides. Whatever ends this one is no harm.
    for signum in (*ENDING, signal.SIGTSTP):
        signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    connections: dict[str, HTTPConnection] = {}
    with _todo(place, "w") as todo, _pages(place, "w") as pages:
        while len(todo) and os.getppid() == parent:
            job = todo.claim(wait=0.2)
            if job is not None:
                # Given back by an exception, and claimed again. What is wrong for good is told by the last one.
                with suppress(HTTPException, OSError), job:
                    _visit(job, start, connections, todo, pages)
    for connection in connections.values():
        connection.close()


def _visit(
    job: Job[str],
    start: str,
    connections: dict[str, HTTPConnection],
    todo: PersistentQueue[str],
    pages: PersistentDict[str, bytes],
) -> None:
    """Fetch a page, store it, and put what it links to: then its job is done."""
    host = urlsplit(job.item).netloc
    connection = connections.pop(host, None) or HTTPConnection(host, timeout=_LONG)
    response, body = _get(connection, job.item)
    connections[host] = connection  # only now: one that an exception has left in the middle is used no more
    if response.status == 404:
        job.fail(f"{response.status} {response.reason}")
    elif response.status >= 500:
        raise HTTPException(f"{response.status} {response.reason}")
    elif response.status >= 300:
        _put(todo, start, urljoin(job.item, response.headers["Location"]))
    else:
        pages[job.item] = body
        for link in _HREF.findall(body):
            _put(todo, start, urljoin(job.item, link.decode()))


def _get(connection: HTTPConnection, url: str) -> tuple[HTTPResponse, bytes]:
    try:
        connection.request("GET", urlsplit(url).path)
        response = connection.getresponse()
        return response, response.read()
    except BaseException:
        connection.close()
        raise


def _put(todo: PersistentQueue[str], start: str, link: str) -> None:
    url, _ = urldefrag(link)
    parts = urlsplit(url)
    if parts.hostname == urlsplit(start).hostname:
        todo.put(url, group=parts.netloc)


# What is done to the workers


class _Workers:
    """The workers, and how many of them were killed. At the end of a ``with`` block none is left."""

    def __init__(self, place: Path, start: str) -> None:
        self.killed = 0
        self._arguments = place, start, os.getpid()
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> _Workers:
        return self

    def start(self) -> None:
        """Start one. No store is open in this process at that moment."""
        with guard.held():
            # A signal between the fork and the worker's first line would meet this process's handlers there.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                process = get_context("fork").Process(target=_work, args=self._arguments, daemon=True)
                process.start()
                self._processes.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill_one(self) -> None:
        """Kill one that works, if there is one, and start another in its place."""
        alive = [process for process in self._processes if process.is_alive()]
        if alive:
            process = random.choice(alive)
            self._end(process)
            self.killed += process.exitcode == -signal.SIGKILL
            self._processes.remove(process)
            self.start()

    def is_busy(self) -> bool:
        """Return whether one works.

        :raises Failure: one has ended that was to go on.
        """
        for process in self._processes:
            if process.exitcode:
                raise Failure(f"a worker ended with exit code {process.exitcode}. This is a bug")
        return any(process.exitcode is None for process in self._processes)

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            self._end(process)

    @staticmethod
    def _end(process: BaseProcess) -> None:
        process.kill()
        process.join()


def _moments(pages: int, kills: int) -> list[int]:
    """Return after how many pages to kill: some time in each part of the crawl, and not at its very end."""
    part = 0.9 * pages / (kills or 1)
    return [round((number + random.random()) * part) for number in range(kills)]


def _run(crew: _Workers, workers: int, view: _View, moments: list[int]) -> None:
    for _ in range(workers):
        crew.start()
    while crew.is_busy():
        counts = view.look()
        if moments and counts.done + counts.failed >= moments[0]:
            del moments[0]
            crew.kill_one()
        time.sleep(_LOOK)
    view.look(at_once=True)


class _View:
    """What is seen of the crawl while it runs: a table in place on a terminal, or a line each second."""

    def __init__(self, screen: Screen, place: Path, pages: int, crew: _Workers) -> None:
        self._screen = screen
        self._place = place
        self._pages = pages
        self._crew = crew
        self._before = time.monotonic(), 0  # when it was looked last, and how many pages were over
        self._rate = 0.0
        self._next = 0.0

    def look(self, at_once: bool = False) -> Counts:
        with _todo(self._place, "r") as todo:
            counts = todo.counts()
        now, over = time.monotonic(), counts.done + counts.failed
        if now - self._before[0] >= _LINE:
            self._rate = (over - self._before[1]) / (now - self._before[0])
            self._before = now, over
        if now >= self._next or (at_once and self._screen.is_terminal):
            self._next = now + (_DRAW if self._screen.is_terminal else _LINE)
            if self._screen.is_terminal:
                self._screen.show(self._picture(counts))
            else:
                say(
                    f"{counts.waiting:,} waiting, {counts.leased:,} leased, {counts.done:,} done, {counts.failed:,}"
                    f" failed; {self._rate:,.0f} pages/s; {counted(self._crew.killed, 'worker')} killed"
                )
        return counts

    def _picture(self, counts: Counts) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column()
        bars = {"waiting": counts.waiting, "leased": counts.leased, "done": counts.done, "failed": counts.failed}
        for name, number in bars.items():
            table.add_row(name, f"{number:,}", ProgressBar(total=self._pages, completed=number, width=40))
        table.add_row("pages/s", f"{self._rate:,.0f}", "")
        table.add_row("killed", f"{self._crew.killed:,}", "with -9")
        return table
