"""Scrapy on Rack: crawls that lose no page when they are killed, and that many processes share.

One line in the settings of a project, with ``JOBDIR`` for one process, or ``RACK_STORE`` for many::

    ADDONS = {"rack.adapters.scrapy.RackAddon": 0}

``docs/scrapy.rst`` has the settings and the promises.

>>> import subprocess, sys
>>> from rack import PersistentDict, PersistentQueue
>>> spider = tmp / "pages.py"
>>> _ = spider.write_text('''
... import scrapy
...
... class Pages(scrapy.Spider):
...     name = "pages"
...     start_urls = ["data:,first", "data:,second"]
...
...     def parse(self, response):
...         yield {"text": response.text}
... ''')
>>> settings = ["-s", f"JOBDIR={tmp / 'job'}", "-s", 'ADDONS={"rack.adapters.scrapy.RackAddon": 0}']
>>> crawl = [sys.executable, "-m", "scrapy", "runspider", spider, *settings]
>>> subprocess.run(crawl, capture_output=True).returncode
0
>>> with PersistentQueue(tmp / "job" / "requests", flag="r") as requests:
...     requests.counts()
Counts(waiting=0, delayed=0, leased=0, done=2, failed=0)
>>> with PersistentDict(tmp / "job" / "items", flag="r") as items:
...     sorted(item["text"] for item in items.values())
['first', 'second']
"""

try:
    import scrapy as _scrapy  # noqa: F401
except ImportError as error:
    raise ImportError("rack.adapters.scrapy needs Scrapy: python3 -m pip install 'rack[scrapy]'") from error

from rack.adapters.scrapy.addon import RackAddon
from rack.adapters.scrapy.dupefilter import RackDupeFilter
from rack.adapters.scrapy.httpcache import RackCacheStorage
from rack.adapters.scrapy.items import RackItems
from rack.adapters.scrapy.origins import RackOrigins
from rack.adapters.scrapy.scheduler import RackScheduler

__all__ = ["RackAddon", "RackCacheStorage", "RackDupeFilter", "RackItems", "RackOrigins", "RackScheduler"]
