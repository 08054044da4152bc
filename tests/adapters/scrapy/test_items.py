"""Items are stored under the request that made them, whatever pipelines make of them, and count once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import Field, Item, Request
from scrapy.exceptions import CloseSpider, DropItem
from scrapy.utils.serialize import ScrapyJSONEncoder

from rack import PersistentDict
from rack.cli.site import Site
from tests.adapters.scrapy.crawls import SiteSpider, counts, crawl
from tests.support.commands import Rack
from tests.support.commands import rack as rack
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound

MOMENT = datetime(2026, 1, 2, 3, 4, 5)
WHEN = json.loads(ScrapyJSONEncoder().encode(MOMENT))  # as a feed has it


class Page(Item):  # type: ignore[misc]
    url = Field()


@dataclass
class Size:
    size: int


class Once(SiteSpider):
    """Visits the first page alone, and makes items of all kinds."""

    async def start(self) -> AsyncIterator[Any]:
        yield {"from": "start"}
        yield Request(self.start_url)

    def parse(self, response: Any) -> Any:
        same = {"n": 0}
        yield same
        yield same
        yield None
        yield Page(url=response.url)
        yield Size(len(response.body))
        yield {"when": MOMENT, "bad": response.meta.get("bad")}
        yield {"drop": True}
        yield response.follow("/pages/1", callback=self.last, dont_filter=True)
        yield response.follow("/pages/1", callback=self.last, dont_filter=True)

    async def last(self, response: Any) -> Any:
        yield {"last": response.url}


class Changing:
    """Makes another object of each item, and drops some."""

    def process_item(self, item: Any) -> Any:
        if isinstance(item, dict):
            if item.get("drop"):
                raise DropItem
            return item | {"seen": True}
        return item


def stored(name: Path) -> dict[str, Any]:
    with PersistentDict[str, Any](name, flag="r") as found:
        return dict(found.items())


def test_items_of_all_kinds_are_kept_once(tmp_path: Path, rack: Rack) -> None:
    settings: dict[str, Any] = {"ITEM_PIPELINES": {Changing: 300}}
    with Site(30, seed=1, delay=0.001) as site, Crew() as crew:
        once, twice = ({"JOBDIR": str(tmp_path / name)} | settings for name in ("job", "other"))
        stats = crew.start(crawl, site.start, once, Once).result()
        found = stored(tmp_path / "job" / "items")
        keys = sorted(found)
        origin = next(key for key in keys if key.endswith(":4")).removesuffix(":4")
        assert {key: found[key] for key in keys if key.startswith(f"{origin}:")} == {
            f"{origin}:0": {"n": 0, "seen": True},
            f"{origin}:1": {"n": 0, "seen": True},
            f"{origin}:2": {"url": site.start},
            f"{origin}:3": {"size": len(site.body(0))},
            f"{origin}:4": {"when": WHEN, "bad": None, "seen": True},
        }
        assert found["start:0"] == {"from": "start", "seen": True}
        last = [key for key in keys if found[key] == {"last": site.url(1), "seen": True}]
        assert len(last) == 2  # of equal requests that were not filtered
        assert last[0].partition("-")[0] == last[1].partition("-")[0]
        assert len(found) == 8
        assert stats["rack/items"] == 8
        # The same, crawled again into the same store.
        assert crew.start(crawl, site.start, twice, Once).result()["rack/items"] == 8
        assert stored(tmp_path / "other" / "items") == found
        for file in (tmp_path / "other").glob("requests*"):
            file.unlink()
        again = crew.start(crawl, site.start, twice, Once).result()
        assert (again["rack/items_again"], again.get("rack/items")) == (8, None)
        assert stored(tmp_path / "other" / "items") == found
    done = rack("dump", "job/items")
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert {line["key"]: line["value"] for line in lines if "key" in line} == found


def test_items_can_be_left_to_others(tmp_path: Path) -> None:
    settings = {"JOBDIR": str(tmp_path / "job"), "ITEM_PIPELINES": {"rack.adapters.scrapy.RackItems": None}}
    with Site(30, seed=1, delay=0.001) as site, Crew() as crew:
        stats = crew.start(crawl, site.start, settings, Once).result()
    assert stats["item_scraped_count"] == 9
    assert not (tmp_path / "job" / "items.rack").exists()


class Closing(SiteSpider):
    """Has enough when it has seen ten pages."""

    seen = 0

    def parse(self, response: Any) -> Any:
        self.seen += 1
        for number, each in enumerate(super().parse(response)):
            if self.seen == 10 and number == 2:
                raise CloseSpider("enough")
            yield each


def test_a_page_whose_callback_closes_the_spider_is_crawled_again(tmp_path: Path) -> None:
    settings = {"JOBDIR": str(tmp_path / "job")}
    with Site(100, seed=2, delay=0.001) as site, Crew() as crew:
        reasons = []
        while "finished" not in reasons:
            reasons.append(crew.start(crawl, site.start, settings, Closing).result()["finish_reason"])
            assert len(reasons) < 30
        assert reasons.count("enough") == len(reasons) - 1 > 2
        urls = {item["url"] for item in stored(tmp_path / "job" / "items").values()}
        assert urls == site.there()
    assert counts(tmp_path / "job" / "requests").waiting == 0
