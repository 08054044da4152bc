"""Shards: one engine's map from bytes to bytes, with one writer at a time. Engines are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rack.errors import MissingLibraryError
from rack.shard.address import Address
from rack.shard.base import Shard
from rack.system.imports import importing

if TYPE_CHECKING:
    from rack.shard.server import Server

#: The engines whose stores are files; and those whose stores are on servers, which a URL names.
ENGINES = {"lmdb": "rack.shard.lmdb", "sqlite3": "rack.shard.sqlite3"}
SERVED = {"redis": "rack.shard.redis"}
_SCHEMES = dict.fromkeys(("redis", "rediss", "redis+cluster", "rediss+cluster", "unix"), "redis")
DEFAULT_ENGINE = "lmdb"


def shard_class(engine: str) -> type[Shard]:
    """Return the Shard class of an engine, by the name that the manifest records."""
    with importing():
        cls: type[Shard] = import_module((ENGINES.get(engine) or SERVED[engine]) + ".shard").SHARD
    return cls


def served_by(name: str) -> str | None:
    """Return the engine of the store that a URL names; None: it is no URL of an engine's, but a path."""
    scheme, mark, _ = name.partition("://")
    return _SCHEMES.get(scheme) if mark else None


def address_of(name: str, nameless: bool = False) -> Address:
    """Return the store that a URL of an engine's names; ``nameless``: it may name the servers alone.

    :raises ValueError: it names none.
    """
    if isinstance(name, Address):
        return name
    with importing():
        address: Address = import_module(SERVED[_SCHEMES[name.partition("://")[0]]] + ".url").address(name, nameless)
    return address


def server_of(address: Address, timeout: float | None) -> Server:
    """Return the servers of a store, to which nothing is connected yet.

    :raises MissingLibraryError: what the engine needs is not installed.
    """
    with importing():
        engine = _SCHEMES[address.partition("://")[0]]
        try:
            made: Server = import_module(SERVED[engine] + ".server").SERVER(address, timeout)
        except ModuleNotFoundError as error:
            raise MissingLibraryError(
                f"stores at {address.partition('://')[0]}:// need the library {error.name!r}, which is not installed:"
                f' pip install "rack[{engine}]"'
            ) from error
    return made
