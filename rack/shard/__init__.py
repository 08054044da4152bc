"""Shards: one engine's map from bytes to bytes, with one writer at a time. Engines are imported when first used."""

from __future__ import annotations

from importlib import import_module

from rack.shard.base import Shard
from rack.system.imports import importing

ENGINES = {"lmdb": "rack.shard.lmdb", "sqlite3": "rack.shard.sqlite3"}
DEFAULT_ENGINE = "lmdb"


def shard_class(engine: str) -> type[Shard]:
    """Return the Shard class of an engine, by the name that the manifest records."""
    with importing():
        cls: type[Shard] = import_module(ENGINES[engine] + ".shard").SHARD
    return cls
