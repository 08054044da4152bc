"""Where a store lives: what opening it, making others beside it, and removing it ask of that place.

A store is in files (:class:`Files`), or on servers (:mod:`rack.store.servers`). Its name tells
(:mod:`rack.store.where`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from rack.shard import ENGINES
from rack.store import files, opening
from rack.store.manifest import Manifest, Request
from rack.store.opening import Entry, Mode
from rack.store.openstore import OpenStore
from rack.system.place import file_id


class Site(ABC):
    """A kind of place. ``path`` is what :func:`rack.store.manifest.absolute_path` makes of a store's name."""

    @abstractmethod
    def key(self, path: str, mode: Mode) -> object:
        """Return what is equal for containers of this process that share one open store."""

    @abstractmethod
    def store(self, path: str, request: Request, mode: Mode) -> tuple[OpenStore, Callable[[], Any]]:
        """Return a store, to be opened, and what it comes in by: finding it, or making it as ``mode`` says."""

    @abstractmethod
    def read(self, path: str) -> Manifest | None:
        """Return the manifest of the store; None: there is no store."""

    @abstractmethod
    def check_absent(self, path: str) -> None:
        """Raise StoreExistsError if there is a store."""

    @abstractmethod
    def shape(self, source: Manifest) -> dict[str, Any]:
        """Return the arguments with which a store here is made like another one."""

    @abstractmethod
    def anonymous(self, target: str | None, beside: str) -> str:
        """Return the path of a store that gets its name when it is full, ``target``; None: it has none, ever."""

    @abstractmethod
    def discard(self, manifest: Manifest, path: str) -> None:
        """Remove what there is of a store that nobody has open. May be done again."""

    @abstractmethod
    def publish(self, manifest: Manifest, source: str, target: str, durability: str) -> None:
        """Give a closed anonymous store its name: it is there as a whole, or not at all."""


class Files(Site):
    """Stores that are files in a folder."""

    def key(self, path: str, mode: Mode) -> object:
        # Also when its folder has been renamed. Who has it open keeps the lock's file, so that its inode is nobody
        # else's.
        try:
            return file_id(os.stat(path + ".rack-lock"))
        except OSError:
            return os.path.realpath(path)

    def store(self, path: str, request: Request, mode: Mode) -> tuple[OpenStore, Callable[[], Entry]]:
        return OpenStore(path, request, mode), lambda: opening.open_or_create(path, request, mode)

    def read(self, path: str) -> Manifest | None:
        return Manifest.read(path)

    def check_absent(self, path: str) -> None:
        files.check_absent(path)

    def shape(self, source: Manifest) -> dict[str, Any]:
        engine = {"engine": source.engine} if source.engine in ENGINES else {"engine": None}
        return {"shards": source.shards, **engine}

    def anonymous(self, target: str | None, beside: str) -> str:
        return files.anonymous_path(target or beside, anywhere=target is None)

    def discard(self, manifest: Manifest, path: str) -> None:
        files.discard(manifest, path)

    def publish(self, manifest: Manifest, source: str, target: str, durability: str) -> None:
        files.publish(manifest, source, target, durability)


FILES = Files()
