"""Which kind of place a store lives in."""

from __future__ import annotations

from rack.shard.address import Address
from rack.store.site import FILES, Site
from rack.system.imports import importing


def site_of(path: str) -> Site:
    """Return where the store at ``path`` lives."""
    if not isinstance(path, Address):
        return FILES
    with importing():
        from rack.store.servers import SERVERS

    return SERVERS
