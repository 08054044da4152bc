"""No page is lost, whenever the processes of a crawl are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from rack.cli.site import Site
from tests.adapters.scrapy.crawls import check, counts, crawl, pages, wait_for
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound


@pytest.fixture
def site(long: bool, seed: int) -> Any:
    with Site(2000 if long else 250, seed=seed % 1000, delay=0.02) as made:
        yield made


def test_a_crawl_that_is_killed_and_resumed_finds_all_pages(site: Site, tmp_path: Path, seed: int, long: bool) -> None:
    rng = random.Random(seed)
    settings = {"JOBDIR": str(tmp_path / "job")}
    kills = 12 if long else 4
    with Crew() as crew:
        for _ in range(kills):
            worker = crew.start(crawl, site.start, settings)
            enough = pages(site) + rng.randrange(1, site.pages // (kills + 2))
            wait_for(lambda: pages(site) >= enough)  # noqa: B023
            worker.kill()
        stats = crew.start(crawl, site.start, settings).result()
    assert stats["finish_reason"] == "finished"
    check(site, f"{tmp_path}/job/")
    repeated = sum(count - 1 for count in site.served().values() if count > 1)
    print(f"{repeated} pages were served again after {kills} kills")


def test_processes_of_one_crawl_that_are_killed_and_started_anew_find_all_pages(
    site: Site, tmp_path: Path, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    settings = {"RACK_STORE": str(tmp_path / "data" / "crawl"), "RACK_LEASE": 600}
    kills = 12 if long else 4
    with Crew() as crew:
        workers = [crew.start(crawl, site.start, settings) for _ in range(3)]
        for number in range(kills):
            enough = pages(site) + rng.randrange(1, site.pages // (kills + 2))
            wait_for(lambda: pages(site) >= enough)  # noqa: B023
            workers[number % 3].kill()
            workers[number % 3] = crew.start(crawl, site.start, settings)
        stats = [worker.result() for worker in workers]
    assert {each["finish_reason"] for each in stats} == {"finished"}
    check(site, f"{tmp_path}/data/crawl-site-")
    assert sum(each.get("rack/leases_lost", 0) for each in stats) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_process_that_is_asked_to_stop_gives_back_what_it_has_at_once(
    number: int, site: Site, tmp_path: Path
) -> None:
    settings = {"RACK_STORE": str(tmp_path / "crawl"), "RACK_LEASE": 600}
    with Crew() as crew:
        worker = crew.start(crawl, site.start, settings)
        wait_for(lambda: pages(site) >= site.pages // 3)
        os.kill(worker.pid, number)
        stats = worker.result()
        assert stats["finish_reason"] == "shutdown"
        left = counts(tmp_path / "crawl-site-requests")
        assert left.leased == 0
        assert left.waiting > 0
        began = time.monotonic()
        stats = crew.start(crawl, site.start, settings).result()
        assert time.monotonic() - began < 60
        assert stats["finish_reason"] == "finished"
        assert "rack/claimed_again" not in stats or stats["rack/claimed_again"] < 70
    check(site, f"{tmp_path}/crawl-site-")
    assert max(count for url, count in site.served().items() if url != site.start) == 1


def test_a_second_sigterm_does_not_wait_and_the_next_run_has_all_that_was_in_progress(
    site: Site, tmp_path: Path
) -> None:
    settings = {"RACK_STORE": str(tmp_path / "crawl"), "RACK_LEASE": 600}
    with Crew() as crew:
        slow = {"DOWNLOAD_DELAY": 0.5, "RANDOMIZE_DOWNLOAD_DELAY": False, "ROBOTSTXT_OBEY": False}
        worker = crew.start(crawl, site.start, settings | slow)
        wait_for(lambda: pages(site) >= 6)  # by now others wait in the downloader for several seconds
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.is_silent(0.3)  # it waits for what is in progress
        began = time.monotonic()
        os.kill(worker.pid, signal.SIGTERM)
        stats = worker.result()
        assert time.monotonic() - began < 4
        assert "finish_reason" not in stats  # the spider was not closed
        left = counts(tmp_path / "crawl-site-requests")
        assert left.leased + left.waiting > 0
        began = time.monotonic()
        stats = crew.start(crawl, site.start, settings).result()
        assert time.monotonic() - began < 60
        assert stats["finish_reason"] == "finished"
    check(site, f"{tmp_path}/crawl-site-")
    print(f"{left}; claimed again: {stats.get('rack/claimed_again', 0)}")
