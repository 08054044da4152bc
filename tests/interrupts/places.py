"""Where the stores of a world are: in a folder, or on a server. What there is, and what is open, is seen from here."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import rack
from rack.store import registry

_IDLE = 5  # connections of each store that are there from the beginning: one in use, and those of handlers


class Folder:
    """Stores in files."""

    #: Containers that it has.
    kinds: ClassVar[tuple[str, ...]] = ("dict", "set", "queue")
    #: Operations that it has not, by name, with the reason.
    lacking: ClassVar[dict[str, str]] = {}
    #: Whether an operation that was cut off may leave what does not count, and is taken back by who comes next.
    may_leave_marks: ClassVar[bool] = False

    def __init__(self, folder: str, engine: str) -> None:
        self.folder = folder
        self._options = {"engine": engine}

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def options(self) -> dict[str, Any]:
        """Return what a container is made with beside its path."""
        return self._options

    def begin(self, stores: list[Any]) -> None:
        """Called when all is open."""

    def open_stores(self) -> list[str]:
        return sorted(held.path for held in registry._all if held.path.startswith(self._prefixes()))

    def _prefixes(self) -> tuple[str, ...]:
        return (self.folder,)

    def descriptors(self) -> list[str]:
        names = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                names.append(os.readlink(f"/proc/self/fd/{fd}"))
        return [name for name in names if name.startswith(self.folder)]

    def files(self) -> set[str]:
        """Return what there is, but for what comes and goes."""
        passing = ("-wal", "-shm")
        names = {name for name in os.listdir(self.folder) if not name.endswith(passing)}
        return {name for name in names if "-journal-" not in name and "-base-" not in name}

    def is_made(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.folder, name + ".rack"))

    def remove(self, name: str) -> None:
        for file in os.listdir(self.folder):
            if file.startswith((name + ".", name + "-")):
                os.unlink(os.path.join(self.folder, file))

    def end(self) -> None:
        """Called when all is closed."""


class OnServer(Folder):
    """Stores on a server; the folder has what is put into files all the same: what has no name, and backups."""

    layout = "ordered"
    may_leave_marks = True
    lacking: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ["snapshot", "snapshot_while_written_to", "snapshot_written_to"], "a server keeps no earlier states"
        ),
        **dict.fromkeys(
            ["get_opening", "put_opening", "add_opening", "iterate_opening"], "no file is opened at the first use"
        ),
    }

    def __init__(self, folder: str, server: Any) -> None:
        super().__init__(folder, "redis")
        tempfile.tempdir = folder
        self._client = server.client()
        self._client.ping()
        self._name = Path(folder).name + ":"
        self._base = f"{server.url}?name={self._name}"

    def path(self, name: str) -> str:
        if super().is_made(name):
            return super().path(name)
        return f"{self._base}{name}&layout={self.layout}"

    def options(self) -> dict[str, Any]:
        return {}

    def begin(self, stores: list[Any]) -> None:
        """Have as many connections as are ever needed at once."""
        for link in {id(store._store._server._link): store._store._server._link for store in stores}.values():
            node = link.masters()[0]
            for connection in [node.take(link.attempt) for _ in range(_IDLE)]:
                node.put(connection)

    def _prefixes(self) -> tuple[str, ...]:
        return (self.folder, self._base)

    def descriptors(self) -> list[str]:
        sockets = [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith("socket:")]
        return super().descriptors() + sockets

    def files(self) -> set[str]:
        return super().files() | {key.decode() for key in self._keys() if b":t:" not in key}

    def _keys(self) -> list[bytes]:
        keys: list[bytes] = self._client.keys(f"*{self._name}*")
        return keys

    def is_made(self, name: str) -> bool:
        return super().is_made(name) or rack.exists(self.path(name))

    def remove(self, name: str) -> None:
        super().remove(name)
        for key in self._keys():
            if key.lstrip(b"{").startswith(f"{self._name}{name}".encode()):
                self._client.delete(key)

    def end(self) -> None:
        for key in self._keys():
            self._client.delete(key)
        self._client.close()


class AsHashes(OnServer):
    """In the layout that has no order."""

    layout = "hash"
    kinds = ("dict", "set")  # a queue needs an order
    lacking: ClassVar[dict[str, str]] = {
        **OnServer.lacking,
        **dict.fromkeys(["transact", "reversed", "scan", "keys_scan"], "the layout has no order of keys"),
        **dict.fromkeys(["popitem", "set_pop"], "any entry may be taken: it is not known which one was"),
    }


#: By the names that the engines have here.
SERVED = {"redis": OnServer, "redis-hash": AsHashes}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
