"""Where the stores of a crawl are, and what the settings say of them."""

from __future__ import annotations

import os
from urllib.parse import quote

from scrapy.exceptions import NotConfigured
from scrapy.settings import BaseSettings
from scrapy.utils.job import job_dir

from rack.shard import address_of, served_by, server_of

_LEASE = 60.0  # seconds


def store_name(settings: BaseSettings, spider: str, what: str) -> str:
    """Return the name of a store of a crawl: in JOBDIR, or, of many processes, RACK_STORE, the spider and ``what``.

    The spider is a part of it: one spider could do nothing with the requests of another. Directories are made.

    :raises ValueError: RACK_STORE is no path, and no URL of a store.
    :raises NotConfigured: there is neither of these settings.
    """
    store = settings.get("RACK_STORE")
    if store:
        if not isinstance(store, str | os.PathLike):
            raise ValueError(f"RACK_STORE={store!r}: must be a path, such as 'data/crawl'")
        prefix = os.fsdecode(store)
        if served_by(prefix) is not None:
            return server_of(address_of(prefix), None).sibling(f"-{quote(spider, safe=' ')}-{what}")
        if not os.path.basename(prefix):
            raise ValueError(f"RACK_STORE={store!r}: must be the beginning of files' names, such as 'data/crawl'")
        os.makedirs(os.path.dirname(prefix) or ".", exist_ok=True)
        return f"{prefix}-{quote(spider, safe=' ')}-{what}"
    directory = job_dir(settings)
    if not directory:
        raise NotConfigured("set JOBDIR (a directory, for one process) or RACK_STORE (a path, for many processes)")
    return os.path.join(directory, what)


def lease(settings: BaseSettings) -> float:
    """Return how many seconds a request is leased.

    :raises ValueError: RACK_LEASE is no such number.
    """
    given = settings.get("RACK_LEASE", _LEASE)
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"RACK_LEASE={given!r}: must be a number of seconds, more than 0")
    return seconds
