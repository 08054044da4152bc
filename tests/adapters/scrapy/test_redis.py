"""A crawl whose stores are on a server: processes that could be on several machines, one of them killed."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("scrapy")

from rack.cli.site import Site
from tests.adapters.scrapy.crawls import check, crawl, pages, wait_for
from tests.support.processes import Crew
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server


@pytest.mark.parametrize("where", ["server", "cluster"])
def test_processes_of_one_crawl_find_all_pages_though_one_is_killed(
    where: str, request: pytest.FixtureRequest, seed: int, long: bool
) -> None:
    if where == "cluster" and not long:
        pytest.skip("runs with --long")
    servers: Server | Cluster = request.getfixturevalue(where)
    settings: dict[str, Any] = {"RACK_STORE": f"{servers.url}?name=crawl", "RACK_LEASE": 600}
    with Site(1000 if long else 150, seed=seed % 1000, delay=0.02) as site, Crew() as crew:
        workers = [crew.start(crawl, site.start, settings) for _ in range(2)]
        enough = random.Random(seed).randrange(10, 100)
        wait_for(lambda: pages(site) >= enough)
        workers[0].kill()
        workers[0] = crew.start(crawl, site.start, settings)
        stats = [worker.result() for worker in workers]
        assert {each["finish_reason"] for each in stats} == {"finished"}
        check(site, f"{servers.url}?name=crawl-site-")
