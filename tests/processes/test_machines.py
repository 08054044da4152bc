"""Two machines crawl a site together, whose stores are on a server between them: each page is counted once."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from rack import LeaseLostError, PersistentDict, PersistentQueue, PersistentSet
from rack.cli.site import Kind, Site
from rack.jobs.job import Job
from rack.system import processes
from tests.conformance.served import Folder
from tests.support.machines import Network
from tests.support.machines import network as network
from tests.support.processes import Crew
from tests.support.servers import Cluster, Server

LEASE = 2.5  # seconds
CUT = 5.0  # seconds that a machine is off the network
WORKERS = 3  # on each machine


class OfTheHub(Site):
    address = "10.77.0.1"


class Crawler:
    """What a process has open. ``machine`` stands for what tells machines apart: their boots, which are one here."""

    def __init__(self, place: Folder, machine: int, log: Path) -> None:
        processes._worldwide = processes._namespace = lambda: machine
        self.todo = PersistentQueue[str](place / "todo", lease=LEASE, unique="ever", max_claims=1000)
        self.pages = PersistentDict[str, bytes](place / "pages")
        self.seen = PersistentSet[str](place / "seen")
        self._connections: dict[str, HTTPConnection] = {}
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lost = 0  # jobs that others had claimed meanwhile

    def work(self) -> int:
        with self.todo, self.pages, self.seen:
            while len(self.todo):
                job = self.todo.claim(wait=0.2)
                if job is None:
                    continue
                try:
                    with job:
                        self._visit(job)
                except LeaseLostError:
                    self._lost += 1
                except (HTTPException, OSError):  # the job was given back
                    self._connections.clear()
        return self._lost

    def _visit(self, job: Job[str]) -> None:
        host = urlsplit(job.item).netloc
        connection = self._connections.setdefault(host, HTTPConnection(host, timeout=2))
        connection.request("GET", urlsplit(job.item).path)
        response = connection.getresponse()
        body = response.read()
        if response.status == 404:
            job.fail("gone")
        elif response.status >= 500:
            raise HTTPException(str(response.status))
        elif response.status >= 300:
            self.todo.put(urljoin(job.item, response.headers["Location"]))
        else:
            self.pages[job.item] = body
            if self.seen.add(job.item):
                os.write(self._log, f"{job.item}\n".encode())
            self.todo.put_many(urljoin(job.item, link.decode()) for link in re.findall(rb'href="([^"]+)"', body))


def _crawl(place: Folder, machine: int, log: Path) -> int:
    return Crawler(place, machine, log).work()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", ["server", "cluster"])
def test_two_machines_store_and_count_each_page_once_though_one_is_cut_off_and_a_process_is_killed(
    network: Network, where: str, tmp_path: Path, seed: int, long: bool
) -> None:
    if where == "cluster" and not long:
        pytest.skip("runs with --long")
    log = tmp_path / "counted"
    hub, (one, other) = network.hub, network.others
    with hub.entered():
        kind = Server if where == "server" else Cluster
        servers = kind(tmp_path / "servers", host=hub.address)
        place = Folder(f"{servers.url}?name=crawl:")
        try:
            with OfTheHub(2000 if long else 700, seed % 1000, hosts=4, delay=0.05) as site, Crew() as crew:
                with PersistentQueue[str](place / "todo", unique="ever") as todo:
                    todo.put(site.start)
                workers = []
                for number, machine in enumerate((one, other), 1):
                    with machine.entered():
                        workers += [crew.start(_crawl, place, number, log) for _ in range(WORKERS)]
                _wait_for(site, 100)
                workers[0].kill()
                other.cut()
                began, before = time.monotonic(), sum(site.asked().values())
                time.sleep(CUT)
                meanwhile = sum(site.asked().values()) - before
                other.mend()
                with one.entered():
                    workers[0] = crew.start(_crawl, place, 1, log)
                lost = sum(worker.result() for worker in workers)
                seconds = time.monotonic() - began
            counted = Counter(log.read_text().split())
            served = site.served()
            again = sum(count - 1 for count in served.values() if count)
            print(
                f"{where}: {sum(counted.values())} pages counted, {again} served again, {lost} leases lost, {meanwhile}"
                f" requests while one machine was cut off, {seconds:.1f} s"
            )
            _check(place, site, counted)
            assert meanwhile > 20, "the other machine did not go on"
            # Each process whose lease ended had one page at that moment: those that were cut off, and the killed one.
            assert again <= WORKERS + 1
            assert lost <= WORKERS
        finally:
            servers.kill()


def _wait_for(site: Site, requests: int) -> None:
    deadline = time.monotonic() + 60
    while sum(site.asked().values()) < requests:
        assert time.monotonic() < deadline, "it goes no further"
        time.sleep(0.01)


def _check(place: Folder, site: Site, counted: Counter[str]) -> None:
    gone = sum(site.kind(number) is Kind.GONE for number in range(site.pages))
    with (
        PersistentDict[str, bytes](place / "pages", flag="r") as pages,
        PersistentSet[str](place / "seen", flag="r") as seen,
        PersistentQueue[str](place / "todo", flag="r") as todo,
    ):
        assert pages.keys() == site.there(), "a page is lost"
        assert all(body == site.body(site.number(url) or 0) for url, body in pages.items())
        assert seen == site.there()
        counts = todo.counts()
        assert (counts.waiting, counts.delayed, counts.leased) == (0, 0, 0)
        assert (counts.done, counts.failed) == (site.pages - gone, gone)
        assert pages.check() == seen.check() == len(site.there())
    assert set(counted.values()) == {1}, "a page is counted twice"
    assert len(site.there()) - len(counted) <= 1, "a page is not counted"  # the killed process may not have told
