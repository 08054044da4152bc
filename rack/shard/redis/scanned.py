"""The keys of all servers, of which a cluster's have a part each."""

from __future__ import annotations

from rack.shard.redis.link import Link, Request
from rack.shard.redis.protocol import pack

_SCANNED = b"5000"  # keys that a server looks at, at a time


def scanned(link: Link, pattern: bytes) -> set[bytes]:
    """Return the keys that a pattern fits: those that are there throughout, at least."""
    found: set[bytes] = set()
    for node in link.masters():
        cursor, failures, slot = b"0", link.failures, link.slot_on(node)
        while True:
            cursor, keys = link.one(Request(slot, pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCANNED)))
            found.update(keys)
            if failures != link.failures:  # it may be another server by now, whose cursors mean something else
                cursor, failures = b"0", link.failures
            elif cursor == b"0":
                break
    return found
