"""A crawl that is killed at any instant of its work, and resumed: no page is lost, and no item counts twice."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import signals

from rack.cli.site import Site
from tests.adapters.scrapy.crawls import SiteSpider, check, crawl
from tests.support.processes import Crew, FailedError
from tests.support.processes import end_sound as end_sound

PAGES = 12


class Killed:
    """Kills this process at its ``moment``-th event. ``counted`` is how many there were."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.counted = 0

    def event(self) -> None:
        self.counted += 1
        if self.counted == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)


# At the moments that a project sees


class NoisySpider(SiteSpider):
    """Says where it is."""

    killed: Killed

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **arguments: Any) -> Any:
        spider = super().from_crawler(crawler, *args, **arguments)
        seen = ("request_scheduled", "response_received", "item_scraped", "request_left_downloader", "headers_received")
        for name in seen:
            crawler.signals.connect(spider.note, getattr(signals, name))
        return spider

    def note(self) -> None:
        self.killed.event()

    def parse(self, response: Any) -> Any:
        self.killed.event()
        for each in super().parse(response):
            yield each
            self.killed.event()
        self.killed.event()


class NoisyPipeline:
    """Takes a moment, so that items of a page are in the pipelines when others are not."""

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Any) -> NoisyPipeline:
        return cls(crawler)

    async def process_item(self, item: Any) -> Any:
        import asyncio

        self._crawler.spider.killed.event()
        await asyncio.sleep(0.001)
        self._crawler.spider.killed.event()
        return dict(item)  # another object


def _noisy(start: str, settings: dict[str, Any], moment: int) -> tuple[int, str]:
    killed = Killed(moment)
    stats = crawl(start, settings | {"ITEM_PIPELINES": {NoisyPipeline: 300}}, NoisySpider, killed=killed)
    return killed.counted, stats["finish_reason"]


# At the moments of the adapter: each call of one of its functions, and each return


def _profiled(start: str, settings: dict[str, Any], moment: int) -> tuple[int, str]:
    killed = Killed(moment)

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "return") and frame.f_globals.get("__name__", "").startswith(
            ("rack.adapters.scrapy.share", "rack.adapters.scrapy.requests", "rack.jobs.batch", "rack.jobs.steps")
        ):
            killed.event()

    sys.setprofile(note)
    stats = crawl(start, settings)
    sys.setprofile(None)
    return killed.counted, stats["finish_reason"]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("work", [_noisy, _profiled], ids=["project", "adapter"])
def test_it_may_be_killed_at_any_instant(
    work: Callable[..., tuple[int, str]], tmp_path: Path, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    with Site(PAGES, seed=seed % 1000, delay=0.001) as site, Crew() as crew:
        whole, _ = crew.start(work, site.start, {"JOBDIR": str(tmp_path / "whole")}, 0).result()
    print(f"{whole} moments")
    assert whole > 100
    for number in range(60 if long else 4):
        moment = rng.randrange(1, whole * 4 // 5)  # no two crawls are quite the same
        job = {"JOBDIR": str(tmp_path / f"{number}")}
        with Site(PAGES, seed=seed % 1000, delay=0.001) as site, Crew() as crew:
            with pytest.raises(FailedError, match="-9"):
                crew.start(work, site.start, job, moment).result()
            assert crew.start(work, site.start, job, 0).result()[1] == "finished"
            check(site, f"{tmp_path}/{number}/")
