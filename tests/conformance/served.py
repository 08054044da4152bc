"""A place of stores on a server, and their bytes read and written there by redis-py's own commands."""

from __future__ import annotations

import itertools
import json
import marshal
import os
from bisect import bisect_right
from collections.abc import Iterable
from tempfile import gettempdir
from typing import Any

import xxhash

from rack import PersistentDict, PersistentSet
from tests.conformance.model import Place

_numbers = itertools.count()


class Folder(str):
    """Stands for a folder: ``folder / "name"`` is the URL of a store."""

    def __truediv__(self, name: str) -> str:
        url, _, rest = self.partition("?name=")
        prefix, mark, options = rest.partition("&")
        return f"{url}?name={prefix}{name}{mark}{options}"

    def glob(self, pattern: str) -> list[str]:
        return []  # no files


class RawServer:
    """Reads and writes what shards have, as DESIGN.rst describes it, without Rack's code."""

    def __init__(self, client: Any, layout: str) -> None:
        self.client = client
        self.layout = layout

    def _hash(self, name: str, number: int) -> bytes:
        place = json.loads(self.client.get(f"{name}.rack"))["place"]
        return f"{{{place}:{number}}}".encode()

    def read(self, name: str, shards: int) -> dict[bytes, bytes]:
        entries: dict[bytes, bytes] = {}
        for number in range(shards):
            content = self.read_shard(self._hash(name, number))
            assert {self.shard_of(key, shards) for key in content} <= {number}
            entries |= content
        return entries

    def read_shard(self, hash: bytes) -> dict[bytes, bytes]:
        if self.layout == "packed":
            return self._packed(hash)
        content: dict[bytes, bytes] = self.client.hgetall(hash)
        if self.layout == "ordered":
            assert sorted(content) == self.client.zrange(hash + b":o", 0, -1)
        return content

    def keys(self, hash: bytes) -> list[bytes]:
        """Return the keys on the server that a shard may have."""
        own = [hash + ending for ending in (b"", b":id", b":o", b":v", b":b", b":a", b":r", b":x")]
        return own + [self._name(hash) + bucket for bucket in self._buckets(hash)]

    def _name(self, hash: bytes) -> bytes:
        """Return what the names of a shard's buckets begin with: how often all were removed is in it."""
        past = int(self.client.get(hash + b":b") or 1) >> 32
        return hash + (b":b%d:" % past if past else b":b:")

    def _packed(self, hash: bytes) -> dict[bytes, bytes]:
        """Return what is in the buckets of a shard, each of which has to have keys of its own alone."""
        entries: dict[bytes, bytes] = {}
        for bucket in self._buckets(hash):
            found = self.client.hgetall(self._name(hash) + bucket)
            assert {self._bucket_of(key, hash) for key in found} <= {bucket}
            entries |= found
        came, gone = (int(self.client.get(hash + ending) or 0) for ending in (b":a", b":r"))
        assert came - gone == len(entries)
        return entries

    def _buckets(self, hash: bytes) -> list[bytes]:
        width = int(self.client.get(hash + b":b") or 1) % (1 << 32)
        whole = 1 << width.bit_length() - 1
        cut = width - whole  # so many of the first ranges are two
        size = (1 << 32) // whole
        lows = [*range(0, cut * size, size // 2), *range(cut * size, 1 << 32, size)]
        assert len(lows) == width
        return [low.to_bytes(4, "big") for low in lows]

    def _bucket_of(self, key: bytes, hash: bytes) -> bytes:
        buckets = self._buckets(hash)
        return buckets[bisect_right(buckets, key[:4].ljust(4, b"\0")) - 1]

    def shard_of(self, key: bytes, shards: int) -> int:
        return xxhash.xxh3_64_intdigest(key) * shards >> 64

    def write_store(self, url: str, shards: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self.write(url.partition("?name=")[2].partition("&")[0], shards, pairs)

    def write(self, name: str, shards: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._put((self._hash(name, self.shard_of(key, shards)), key, value) for key, value in pairs)

    def write_shard(self, hash: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._put((hash, key, value) for key, value in pairs)

    def _put(self, entries: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for hash, key, value in entries:
                if self.layout == "packed":
                    pipeline.hset(self._name(hash) + self._bucket_of(key, hash), key, value)
                    pipeline.incr(hash + b":a")
                    continue
                pipeline.hset(hash, key, value)
                if self.layout == "ordered":
                    pipeline.zadd(hash + b":o", {key: 0})
            pipeline.execute()


class ServedPlace(Place):
    """Names of one server that no other test has; all is checked, closed and removed in the end."""

    def __init__(self, url: str, client: Any, shards: int, layout: str) -> None:
        self.prefix = f"test{next(_numbers)}:"
        folder = Folder(f"{url}?name={self.prefix}&layout={layout}")
        self._raw = RawServer(client, layout)
        super().__init__(folder, "redis", self._raw, shards)  # type: ignore[arg-type]

    def filled_dict(self, content: dict[Any, Any], name: str = "store", **options: Any) -> PersistentDict[Any, Any]:
        made = self.dict(name, **options)
        with made:
            pass
        pairs = [(marshal.dumps(key, 2), marshal.dumps(value)) for key, value in content.items()]
        self._raw.write(self.prefix + name, self.shards, pairs)
        return made.open()

    def filled_set(self, content: set[Any], name: str = "store", **options: Any) -> PersistentSet[Any]:
        made = self.set(name, **options)
        with made:
            pass
        self._raw.write(self.prefix + name, self.shards, [(marshal.dumps(each, 2), b"") for each in content])
        return made.open()

    def stored(self, container: Any) -> Any:
        entries = self._raw.read(container._path.parts.store, self.shards)
        if isinstance(container, PersistentSet):
            assert set(entries.values()) <= {b""}
            return {marshal.loads(key) for key in entries}
        return {marshal.loads(key): marshal.loads(value) for key, value in entries.items()}

    def anonymous(self) -> list[str]:
        """Return those there are: what has no name, and will have none, is in files for the time being."""
        unnamed = [key.decode() for key in self._keys() if b"~" in key and b".rack" in key]
        return unnamed + [name for name in os.listdir(gettempdir()) if "rack-anonymous" in name]

    def _keys(self) -> list[bytes]:
        pattern = f"*{self.prefix}*"
        if hasattr(self._raw.client, "get_primaries"):
            return list(self._raw.client.scan_iter(pattern, count=1000, target_nodes="primaries"))
        return list(self._raw.client.scan_iter(pattern, count=1000))

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            for key in self._keys():
                self._raw.client.delete(key)
