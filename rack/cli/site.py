"""A site to crawl, on this machine alone: some thousand pages that link to each other, and some that go wrong.

Which pages there are, what they say and how they go wrong follows from a seed and their number. So who has crawled the
site can be told what is missing.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import socket
from collections.abc import Iterator
from enum import Enum
from functools import partial
from multiprocessing import get_context
from typing import Self
from urllib.parse import urlsplit

from rack.cli.signals import ENDING

FANOUT = 10  # pages that each page leads to: no page is further from the first one than the site is long in this base
_ASIDE = 10  # other pages that a page links to
_COUNT = 4  # bytes
_ORPHANED = 0.5  # seconds between two looks whether whoever has started the server is still there


class Kind(Enum):
    """How a page answers."""

    GOOD = "good"
    SLOW = "slow"
    FLAKY = "flaky"  # 500 twice, and then it is there
    CUT = "cut"  # the connection ends in the middle of the page, once
    MOVED = "moved"  # 301 to another page
    GONE = "gone"  # 404


#: How often a page has to be asked for before it is served.
_VAIN = {Kind.FLAKY: 2, Kind.CUT: 1}
#: Of 100 pages, how many are of which kind. Where a page leads to others it is never one of the last two.
_SHARES = {Kind.SLOW: 2, Kind.FLAKY: 2, Kind.CUT: 1, Kind.MOVED: 5, Kind.GONE: 3}
_OF_100 = [kind for kind, share in _SHARES.items() for _ in range(share)]


class Site:
    """A site of ``pages`` pages, each with a number from 0; served while it is entered, by a process of its own.

    It has ``hosts`` hosts, which are ports of :attr:`address`, and page n is on host n modulo that. All pages can be
    reached from :attr:`start`. ``delay``: how many seconds a slow page takes.

    >>> from urllib.request import urlopen
    >>> with Site(100, seed=1) as site:
    ...     body = urlopen(site.start).read()
    ...     body == site.body(0), site.served()[site.start]
    (True, 1)
    """

    address = "127.0.0.1"

    def __init__(self, pages: int, seed: int = 0, hosts: int = 1, delay: float = 0.2) -> None:
        self.pages = pages
        self.delay = delay
        self._seed = seed
        self._asked = mmap.mmap(-1, pages * _COUNT)  # shared with the process that serves
        self._sockets = [_listening(self.address) for _ in range(hosts)]
        self._ports: list[int] = [each.getsockname()[1] for each in self._sockets]
        self._process = get_context("fork").Process(target=self._serve, args=(os.getpid(),), daemon=True)

    # What there is

    @property
    def start(self) -> str:
        """The URL of the first page."""
        return self.url(0)

    def url(self, number: int) -> str:
        return f"http://{self.address}:{self._port(number)}{_path(number)}"

    def number(self, url: str) -> int | None:
        """Return the number of the page with a URL; None: there never was one."""
        parts = urlsplit(url)
        return self.find(parts.path, parts.port or 80)

    def find(self, path: str, port: int) -> int | None:
        """Return the number of the page at a path of a host; None: there never was one."""
        _, _, digits = path.rpartition("/")
        number = int(digits) if digits.isascii() and digits.isdigit() else self.pages
        return number if number < self.pages and (_path(number), self._port(number)) == (path, port) else None

    def kind(self, number: int) -> Kind:
        return self._kind(self._random(number), number)

    def target(self, number: int) -> int:
        """Return where a page has moved to: the number of one that is there."""
        chance = self._random(-number)
        while True:
            other = chance.randrange(self.pages)
            if self.is_there(other):
                return other

    def is_there(self, number: int) -> bool:
        """Return whether a page is served, be it later."""
        return self.kind(number) not in (Kind.MOVED, Kind.GONE)

    def there(self) -> set[str]:
        """Return the URLs of all pages that are there: what a crawl has to find."""
        return {self.url(number) for number in range(self.pages) if self.is_there(number)}

    def links(self, number: int) -> Iterator[int]:
        """Return the numbers of the pages that a page links to."""
        first = number * FANOUT + 1
        yield from range(first, min(first + FANOUT, self.pages))
        chance = self._random(number)
        chance.random()
        yield from (chance.randrange(self.pages) for _ in range(_ASIDE))

    def body(self, number: int) -> bytes:
        """Return what a page says."""
        here = self._port(number)
        rows = []
        for other in self.links(number):
            is_here = self._port(other) == here
            rows.append(f'<li><a href="{_path(other) if is_here else self.url(other)}">Page {other:,}</a></li>')
        head = f"<!DOCTYPE html>\n<html><head><title>Page {number:,}</title></head>\n<body>\n<h1>Page {number:,}</h1>\n"
        return "\n".join((head + "<ul>", *rows, "</ul>\n</body></html>\n")).encode()

    def asked(self) -> dict[str, int]:
        """Return how often there was a request for each page."""
        counts = memoryview(self._asked).cast("I")
        return {self.url(number): count for number, count in enumerate(counts)}

    def served(self) -> dict[str, int]:
        """Return how often each page that is there was served as a whole."""
        vain = ((self.url(number), _VAIN.get(self.kind(number), 0)) for number in range(self.pages))
        asked, there = self.asked(), self.there()
        return {url: max(0, asked[url] - less) for url, less in vain if url in there}

    def _kind(self, chance: random.Random, number: int) -> Kind:
        drawn = int(chance.random() * 100)
        kind = _OF_100[drawn] if drawn < len(_OF_100) and number else Kind.GOOD
        if kind in (Kind.MOVED, Kind.GONE) and number * FANOUT + 1 < self.pages:
            return Kind.GOOD  # else those that it leads to could not be found
        return kind

    def _random(self, number: int) -> random.Random:
        return random.Random((self._seed << 32) + number)

    def _port(self, number: int) -> int:
        return self._ports[number % len(self._ports)]

    # Serving it

    def __enter__(self) -> Self:
        """Serve the site. Connections are taken from this moment on."""
        # A signal between the fork and the first line of the server would meet the handlers of this process there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for each in self._sockets:
            each.close()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.join()

    def _serve(self, parent: int) -> None:
        # Ctrl-C reaches every process of a terminal: it is the parent that decides.
        for signum in (*ENDING, signal.SIGTSTP):
            signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        asyncio.run(self._answer_all(parent))

    async def _answer_all(self, parent: int) -> None:
        loop = asyncio.get_running_loop()
        counts = memoryview(self._asked).cast("I")
        for each, port in zip(self._sockets, self._ports, strict=True):
            await loop.create_server(partial(_Connection, self, port, counts), sock=each)
        while os.getppid() == parent:  # a parent that is killed cannot end it
            await asyncio.sleep(_ORPHANED)


class _Connection(asyncio.Protocol):
    """A connection to a client: HTTP/1.1, one request after the other."""

    _transport: asyncio.Transport

    def __init__(self, site: Site, port: int, counts: memoryview[int]) -> None:
        self._site = site
        self._port = port
        self._counts = counts
        self._received = b""
        self._is_answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._go_on()

    def _go_on(self) -> None:
        while not self._is_answering and not self._transport.is_closing():
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._received = rest
            self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        first, *fields = head.split("\r\n")
        method, _, target = first.partition(" ")
        path, _, version = target.rpartition(" ")
        wants_end = version != "HTTP/1.1" or any(each.lower().replace(" ", "") == "connection:close" for each in fields)
        number = self._site.find(path.partition("?")[0], self._port) if method in ("GET", "HEAD") else None
        if number is None:
            self._send("404 Not Found", b"There is no such page.", method, wants_end)
            return
        kind = self._site.kind(number)
        asked = self._counts[number]
        self._counts[number] = asked + 1
        if kind is Kind.GONE:
            self._send("404 Not Found", b"This page is gone.", method, wants_end)
        elif kind is Kind.MOVED:
            there = f"Location: {self._site.url(self._site.target(number))}\r\n"
            self._send("301 Moved Permanently", b"", method, wants_end, there)
        elif kind is Kind.FLAKY and asked < _VAIN[kind]:
            self._send("500 Internal Server Error", b"Not now.", method, wants_end)
        elif kind is Kind.CUT and asked < _VAIN[kind]:
            self._send("200 OK", self._site.body(number), method, True, cut=True)
        elif kind is Kind.SLOW:
            self._is_answering = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._site.delay, self._send_late, self._site.body(number), method, wants_end)
        else:
            self._send("200 OK", self._site.body(number), method, wants_end)

    def _send_late(self, body: bytes, method: str, wants_end: bool) -> None:
        self._is_answering = False
        self._send("200 OK", body, method, wants_end)
        self._go_on()

    def _send(self, status: str, body: bytes, method: str, wants_end: bool, more: str = "", cut: bool = False) -> None:
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n{more}"
            f"Connection: {'close' if wants_end else 'keep-alive'}\r\n\r\n"
        )
        if method == "HEAD":
            body = b""
        self._transport.write(head.encode() + (body[: len(body) // 2] if cut else body))
        if wants_end:
            self._transport.close()


def _path(number: int) -> str:
    return f"/pages/{number}"


def _listening(address: str) -> socket.socket:
    return socket.create_server((address, 0), backlog=1024)
