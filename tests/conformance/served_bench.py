"""One shard of a server on the bench: what :mod:`tests.conformance.bench` is for one in a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from rack.shard import server_of
from rack.shard.base import Shard, ShardSpec
from rack.shard.redis.url import address
from tests.conformance.raw import sha256
from tests.conformance.served import RawServer

STORE_ID = "0123456789abcdef" * 2
_numbers = itertools.count()


class ServedBench:
    """``shard`` is open; ``stored`` and ``seed`` go behind its back."""

    hash = staticmethod(sha256)

    def __init__(self, url: str, client: Any, layout: str) -> None:
        self.address = address(f"{url}?name=bench{next(_numbers)}&layout={layout}")
        self.client = client
        self.sound = True  # whether check() must pass in the end
        self._place = self.address.parts.store
        self.key = f"{{{self._place}:0}}".encode()
        self.raw = RawServer(client, layout)
        self.server: Any = None
        self.shard: Any = None
        self._make()
        self.open()

    def _make(self) -> None:
        server = server_of(self.address, None)
        server.prepare(self._place, STORE_ID, 1)
        server.close()

    def open(self, **changes: Any) -> None:
        """Open the shard, anew if it is open, with other things in its spec."""
        self.close()
        spec = ShardSpec(self.address, STORE_ID, 0, self.address.layout or "", sha256, "process", False)
        self.server = server_of(self.address, None)
        self.shard: Shard = self.server.shards(self._place, [spec._replace(**changes)])[0]
        if not self.shard.ordered:
            # What is in no order is read in one pass that puts it in order; here each block is a pass of its own.
            self.shard.scan = lambda *args, **words: self.shard.scanning()(*args, **words)  # type: ignore[method-assign]

    def close(self) -> None:
        if self.shard is not None:
            self.shard.close()
            self.server.close()
            self.shard = None

    def stored(self) -> dict[bytes, bytes]:
        """Return what is on the server."""
        return self.raw.read_shard(self.key)

    def seed(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put pairs there."""
        self.raw.write_shard(self.key, pairs)

    def finish(self) -> None:
        """Every test ends with this."""
        try:
            if self.sound:
                self.shard.check()
        finally:
            self.close()
            for key in self.raw.keys(self.key):
                self.client.delete(key)
