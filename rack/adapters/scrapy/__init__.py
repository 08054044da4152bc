"""Scrapy on Rack: crawls that lose no page when they are killed, and that many processes share.

One line in the settings of a project, with ``JOBDIR`` for one process, or ``RACK_STORE`` for many::

    ADDONS = {"rack.adapters.scrapy.RackAddon": 0}

``docs/scrapy.rst`` has the settings and the promises.
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
