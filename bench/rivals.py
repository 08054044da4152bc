"""The contestants: one adapter class a rival, with the settings it is given and why.

All are given the same promise where they have a switch for it: a finished write survives the death of the process, and
need not survive a power failure. Where a rival promises more, its docstring says so. Rivals are imported when opened.
"""

from __future__ import annotations

import importlib
import logging
import marshal
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from bench.rival import DictRival, Kind, Pairs, Rival

MIB = 1 << 20


def room(capacity: int, least: int = 16 * MIB) -> int:
    """Bytes that are surely enough for an LMDB file of `capacity` small entries inserted in random order."""
    return max(least, -(-capacity * 400 // MIB) * MIB)


class Rack(DictRival):
    """Rack, also with a number of shards; it syncs no more than the others. The adds go to a PersistentSet."""

    name = "Rack"
    module = "rack"

    def __init__(self, shards: int | None = None) -> None:
        self.shards = shards

    @property
    def label(self) -> str:
        return self.name if self.shards is None else f"{self.name}, shards={self.shards}"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rack import PersistentDict, PersistentSet

        container: Any = PersistentSet if kind == "set" else PersistentDict
        self.d = container(directory / "store", shards=self.shards, durability="process")
        self.d.open()

    def add(self, keys: list[str]) -> int:
        d = self.d
        new = 0
        for key in keys:
            if d.add(key):
                new += 1
        return new


class HandWritten(Rival):
    """What a user of py-lmdb writes by hand, with the flags that Rack uses and marshal on both sides.

    One file, one transaction an operation. The file is as large as it will ever be from the start, and written with
    zeros, so that this loop pays for nothing but itself: the bound that a Python layer over py-lmdb can approach.
    """

    name = "py-lmdb by hand"
    module = "lmdb"
    least = 16 * MIB  # bytes of the file

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        import lmdb

        path = directory / "data.lmdb"
        size = room(capacity, self.least)
        created = not path.exists()
        self.env = lmdb.open(
            str(path),
            map_size=size,
            subdir=False,
            sync=False,
            metasync=False,
            writemap=True,
            meminit=False,
            max_spare_txns=0,
            lib_version=0,
        )
        if created:
            zeros = bytes(MIB)
            start = 2 * self.env.stat()["psize"]  # the two meta pages stay
            fd = os.open(path, os.O_WRONLY)
            try:
                while start < size:
                    start += os.pwrite(fd, zeros[: size - start], start)
            finally:
                os.close(fd)

    def close(self) -> None:
        self.env.close()

    def count(self) -> int:
        return int(self.env.stat()["entries"])

    def set(self, pairs: Pairs) -> None:
        env, dumps = self.env, marshal.dumps
        for key, value in pairs:
            with env.begin(write=True) as txn:
                txn.put(dumps(key), dumps(value))

    def get(self, keys: list[str]) -> Any:
        env, dumps, loads = self.env, marshal.dumps, marshal.loads
        value = None
        for key in keys:
            with env.begin() as txn:
                value = loads(txn.get(dumps(key)))  # type: ignore[arg-type]  # the key is there
        return value

    def contains(self, keys: list[str]) -> int:
        env, dumps = self.env, marshal.dumps
        found = 0
        for key in keys:
            with env.begin() as txn:
                if txn.get(dumps(key)) is not None:
                    found += 1
        return found

    def add(self, keys: list[str]) -> int:
        env, dumps = self.env, marshal.dumps
        new = 0
        for key in keys:
            with env.begin(write=True) as txn:
                if txn.put(dumps(key), b"", overwrite=False):
                    new += 1
        return new

    def update(self, pairs: Pairs) -> None:
        """Sorted, in one transaction."""
        dumps = marshal.dumps
        items = sorted((dumps(key), dumps(value)) for key, value in pairs)
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti(items)

    def iterate(self, values: bool) -> int:
        """A bare cursor plus loads."""
        loads = marshal.loads
        count = 0
        with self.env.begin() as txn:
            if values:
                for key, value in txn.cursor():
                    loads(key)
                    loads(value)
                    count += 1
            else:
                for key in txn.cursor().iternext(values=False):
                    loads(key)
                    count += 1
        return count


class HandSharded(Rival):
    """As many of these as Rack has shards: what routes and sorts many pairs by hand, and reads shard after shard.

    Rack's ``items()`` merges the shards in order of the keys, and this does not.
    """

    name = "py-lmdb by hand, sharded"
    module = "lmdb"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rack.store.manifest import DEFAULT_SHARDS
        from rack.store.router import router

        self.shards = [HandWritten() for _ in range(DEFAULT_SHARDS)]
        for number, shard in enumerate(self.shards):
            place = directory / str(number)
            place.mkdir(exist_ok=True)
            shard.least = MIB
            shard.open(place, capacity // DEFAULT_SHARDS * 5 // 4)
        self.route = router(self.shards)

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def count(self) -> int:
        return sum(shard.count() for shard in self.shards)

    def set(self, pairs: Pairs) -> None:
        raise NotImplementedError

    def get(self, keys: list[str]) -> Any:
        raise NotImplementedError

    def contains(self, keys: list[str]) -> int:
        raise NotImplementedError

    def add(self, keys: list[str]) -> int:
        raise NotImplementedError

    def update(self, pairs: Pairs) -> None:
        """Sorted, in one transaction a shard."""
        from rack.store.router import router

        dumps = marshal.dumps
        runs: list[list[tuple[bytes, bytes]]] = [[] for _ in self.shards]
        append_to = router([run.append for run in runs])
        for key, value in pairs:
            data = dumps(key)
            append_to(data)((data, dumps(value)))
        for run, shard in zip(runs, self.shards, strict=True):
            run.sort()
            with shard.env.begin(write=True) as txn:
                txn.cursor().putmulti(run)

    def iterate(self, values: bool) -> int:
        return sum(shard.iterate(values) for shard in self.shards)


class Fanout(DictRival):
    """diskcache.FanoutCache with 8 shards, as it comes: least-recently-stored eviction, synchronous=NORMAL.

    The latter promises more than the others do: an fsync at each checkpoint of the log. The limit of 1 GiB is far
    away. Many at once: inside `transact()`, one transaction over all shards.
    """

    name = "FanoutCache(8)"
    module = "diskcache"
    share = 0.2
    settings: ClassVar[dict[str, Any]] = {}

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self.d = diskcache.FanoutCache(str(directory / "cache"), shards=8, **self.settings)

    def add(self, keys: list[str]) -> int:
        """`retry=True`: without it a busy shard is answered like a key that was there."""
        d = self.d
        new = 0
        for key in keys:
            if d.add(key, 1, retry=True):
                new += 1
        return new

    def update(self, pairs: Pairs) -> None:
        with self.d.transact():
            self.set(pairs)

    def iterate(self, values: bool) -> int:
        """There is no items(): a value costs a lookup."""
        d = self.d
        count = 0
        if not values:
            return super().iterate(False)
        for key in d:
            d[key]
            count += 1
        return count


class FanoutKeeping(Fanout):
    """The same as a store rather than a cache: eviction and culling off."""

    name = "FanoutCache(8), no eviction"
    settings: ClassVar[dict[str, Any]] = {"eviction_policy": "none", "cull_limit": 0}


class FanoutUnsynced(FanoutKeeping):
    """No eviction, and synchronous=OFF: the promise of Rack's default. Not what its users have."""

    name = "FanoutCache(8), no fsync"
    settings: ClassVar[dict[str, Any]] = FanoutKeeping.settings | {"sqlite_synchronous": 0}


class SqliteDict(DictRival):
    """sqlitedict in WAL mode with autocommit, without the stack trace it otherwise takes at every call.

    Both make it faster than its defaults; synchronous=OFF is built in. Many at once: one commit.
    """

    name = "sqlitedict"
    module = "sqlitedict"
    share = 0.04

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        logging.getLogger("sqlitedict").setLevel(logging.CRITICAL)
        self.path = str(directory / "data.sqlite")
        self.d = self._connect(autocommit=True)

    def _connect(self, autocommit: bool) -> Any:
        sqlitedict: Any = importlib.import_module("sqlitedict")
        return sqlitedict.SqliteDict(self.path, autocommit=autocommit, journal_mode="WAL", outer_stack=False)

    def update(self, pairs: Pairs) -> None:
        with self._connect(autocommit=False) as d:
            d.update(pairs)
            d.commit()


class Shelve(DictRival):
    """shelve with the newest pickle protocol, over whichever dbm this Python has; one process."""

    name = "shelve"
    module = "shelve"
    share = 0.1
    processes = False

    def version(self) -> str:
        import dbm

        default = getattr(dbm, "_defaultmod", None)
        for module in ("dbm.sqlite3", "dbm.gnu", "dbm.ndbm") if default is None else (default.__name__,):
            try:
                importlib.import_module(module)
            except ImportError:
                continue
            return f"over {module}"
        return "over dbm.dumb"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        import shelve

        self.d = shelve.open(str(directory / "shelf"), protocol=pickle.HIGHEST_PROTOCOL)  # noqa: SIM115


class Lmdbm(DictRival):
    """lmdbm with Rack's LMDB flags (its own default is an fsync a commit), UTF-8 keys and marshal values.

    The map is large enough from the start and automatic growth is off, as its documentation asks of many processes.
    """

    name = "lmdbm"
    module = "lmdbm"

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        import lmdbm

        class MarshalLmdb(lmdbm.Lmdb[str, Any]):
            def _pre_key(self, key: str) -> bytes:
                return key.encode()

            def _post_key(self, key: bytes) -> str:
                return key.decode()

            def _pre_value(self, value: Any) -> bytes:
                return marshal.dumps(value)

            def _post_value(self, value: bytes) -> Any:
                return marshal.loads(value)

        self.d = MarshalLmdb.open(
            str(directory / "lmdbm"),
            "c",
            map_size=room(capacity),
            autogrow=False,
            sync=False,
            metasync=False,
            writemap=True,
            meminit=False,
        )


class Rocks(DictRival):
    """rocksdict as it comes: a log that is written and not synced, 64 MiB write buffer, native str and int.

    A bloom filter, a larger buffer or unordered writes made no difference at these sizes. One process.
    Many at once: a WriteBatch, which was faster than ingesting a sorted SST file.
    """

    name = "rocksdict"
    module = "rocksdict"
    processes = False

    def open(self, directory: Path, capacity: int, kind: Kind = "dict") -> None:
        from rocksdict import Rdict

        self.d = Rdict(str(directory / "rocks"))

    def count(self) -> int:
        return sum(1 for _ in self.d.keys())  # noqa: SIM118  (it has no __iter__)

    def update(self, pairs: Pairs) -> None:
        from rocksdict import WriteBatch

        batch = WriteBatch()
        for key, value in pairs:
            batch[key] = value
        self.d.write(batch)

    def iterate(self, values: bool) -> int:
        if values:
            return super().iterate(True)
        count = 0
        for _key in self.d.keys():  # noqa: SIM118
            count += 1
        return count


def contestants() -> list[Rival]:
    """All of them, Rack first."""
    return [
        Rack(),
        HandWritten(),
        Lmdbm(),
        Rocks(),
        Fanout(),
        FanoutKeeping(),
        FanoutUnsynced(),
        SqliteDict(),
        Shelve(),
    ]


def rack_by_shards(counts: Iterable[int]) -> list[Rival]:
    """Rack in its default form, and with each of the shard counts."""
    return [Rack(), *(Rack(count) for count in counts)]
