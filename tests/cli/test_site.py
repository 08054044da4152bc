"""The site to crawl: the same for a seed, each page can be reached, and goes wrong as it says."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

import rack
from rack.cli.site import Kind, Site

HREF = re.compile(r'href="([^"]+)"')


def get(url: str) -> tuple[int, bytes, str | None]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        return response.status, response.read(), response.headers["Location"]
    finally:
        connection.close()


def test_who_follows_all_links_finds_all_pages_and_each_answers_as_its_kind_says() -> None:
    with Site(500, seed=3, hosts=3, delay=0.01) as site:
        seen, todo, stored = {site.start}, [site.start], {}
        while todo:
            url = todo.pop()
            number = site.number(url)
            assert number is not None
            kind = site.kind(number)
            if kind is Kind.FLAKY:
                assert [get(url)[0] for _ in range(2)] == [500, 500]
            if kind is Kind.CUT:
                with pytest.raises(http.client.IncompleteRead):
                    get(url)
            status, body, location = get(url)
            assert status == {Kind.GONE: 404, Kind.MOVED: 301}.get(kind, 200)
            assert (location is not None) == (kind is Kind.MOVED)
            if status == 200:
                assert body == site.body(number)
                stored[url] = body
            links = [location] if location else HREF.findall(body.decode()) if status == 200 else []
            new = {urljoin(url, link) for link in links} - seen
            seen |= new
            todo += new
        assert {site.kind(number) for number in range(site.pages)} == {*Kind}
        assert set(stored) == site.there()
        assert seen == {site.url(number) for number in range(site.pages)}
        assert {*site.served().values()} == {1}
        assert get(f"{site.start}0000000")[0] == get(site.start.replace("pages", "page"))[0] == 404


def test_a_connection_is_kept_and_a_slow_page_takes_its_time() -> None:
    with Site(200, seed=1, delay=0.3) as site:
        slow = next(number for number in range(site.pages) if site.kind(number) is Kind.SLOW)
        connection = http.client.HTTPConnection(urlsplit(site.start).netloc, timeout=10)
        connection.request("GET", urlsplit(site.start).path)
        connection.getresponse().read()
        held = connection.sock
        began = time.monotonic()
        connection.request("GET", urlsplit(site.url(slow)).path)
        assert connection.getresponse().read() == site.body(slow)
        assert time.monotonic() - began >= 0.3
        assert connection.sock is held
        connection.close()


def test_the_same_seed_makes_the_same_pages_and_another_one_others() -> None:
    def paths(seed: int) -> list[list[int]]:
        site = Site(300, seed)
        with site:
            return [[*site.links(number)] + [site.is_there(number)] for number in range(300)]

    assert paths(1) == paths(1)
    assert paths(1) != paths(2)


def test_it_ends_with_who_has_started_it_however_that_ends() -> None:
    source = "import sys\nfrom rack.cli.site import Site\nwith Site(9) as site:\n    print(site.start, flush=True)\n"
    for ends in ("", "    sys.stdin.read()\n"):
        environment = {**os.environ, "PYTHONPATH": str(Path(rack.__file__).parent.parent)}
        command = [sys.executable, "-c", source + ends]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            start = process.stdout.readline().decode().strip()
            if ends:
                assert get(start)[0] == 200
                process.send_signal(signal.SIGKILL)
            process.wait(20)
        deadline = time.monotonic() + 20
        while True:
            try:
                get(start)
            except ConnectionError:
                break
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.05)
