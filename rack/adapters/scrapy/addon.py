"""The add-on: one line in a project's settings turns all of it on."""

from __future__ import annotations

from scrapy.settings import BaseSettings

from rack.adapters.scrapy import place
from rack.adapters.scrapy.httpcache import RackCacheStorage
from rack.adapters.scrapy.items import RackItems
from rack.adapters.scrapy.origins import RackOrigins
from rack.adapters.scrapy.scheduler import RackScheduler

_FIRST, _LAST = -1_000_000, 1_000_000  # before and behind all that a project has


class RackAddon:
    """Has a crawl on disk: its requests, which of them were seen, its items, and the cache of responses if that is on.

    In the settings of a project: ``ADDONS = {"rack.adapters.scrapy.RackAddon": 0}``. What a project sets itself goes
    before: ``SCHEDULER``, ``HTTPCACHE_STORAGE``, and ``ITEM_PIPELINES`` with None for ``RackItems`` to keep no items.

    Without ``JOBDIR`` and ``RACK_STORE`` it is off, and says so in the log.

    >>> from scrapy.settings import Settings
    >>> settings = Settings({"JOBDIR": str(tmp / "job")})
    >>> RackAddon().update_settings(settings)
    >>> settings["SCHEDULER"].__name__, RackItems in settings["ITEM_PIPELINES"]
    ('RackScheduler', True)
    >>> RackAddon().update_settings(Settings())
    Traceback (most recent call last):
        ...
    scrapy.exceptions.NotConfigured: set JOBDIR (a directory, for one process) or RACK_STORE (...)
    """

    def update_settings(self, settings: BaseSettings) -> None:
        """Turn it on. O(1).

        :param settings: those of the crawl.
        :raises NotConfigured: there is neither JOBDIR nor RACK_STORE.
        :raises ValueError: one of its settings has a value that is not allowed.
        """
        place.store_name(settings, "", "")
        place.lease(settings)
        settings.set("SCHEDULER", RackScheduler, "addon")
        settings.set("HTTPCACHE_STORAGE", RackCacheStorage, "addon")
        settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", RackOrigins, _FIRST)
        settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", RackOrigins, _FIRST)
        settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", RackItems, _LAST)
