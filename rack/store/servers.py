"""Where stores live on servers: a mark there says that there is one, what it is, and where its shards are.

The mark is a manifest in JSON, and with it the *place*: the name that the shards have. That is the store's own, but for
a store that was made under another name, or in place of another one: shards are never renamed, as a cluster would have
to move them. A mark that is not *ready* is that of a store whose shards are being made. Whoever finds it goes on with
that, so nobody waits for a maker who was killed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from rack.errors import CorruptShardError, ManifestError, StoreExistsError, StoreNotFoundError, UnsupportedOperation
from rack.shard import served_by, server_of
from rack.shard.address import Address
from rack.shard.server import Server
from rack.store import files
from rack.store.manifest import DEFAULT_SHARDS, Manifest, Request
from rack.store.opening import Mode
from rack.store.served import OpenServed
from rack.store.site import Site
from rack.system.imports import importing

_PASSING, _RANDOM = "~", 6  # a name that no other store has ends with this, and so many bytes in hex


class Mark(NamedTuple):
    """A mark, and the bytes that it is."""

    manifest: Manifest
    place: str
    ready: bool
    data: bytes

    @classmethod
    def of(cls, manifest: Manifest, place: str, ready: bool = False) -> Mark:
        with importing():
            import json

        content = manifest._asdict() | {"place": place, "ready": ready}
        return cls(manifest, place, ready, json.dumps(content).encode())

    @classmethod
    def parse(cls, data: bytes, where: str) -> Mark:
        with importing():
            import json

        try:
            content = json.loads(data)
            place, ready = content.pop("place"), content.pop("ready")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(f"{where} has a mark on the server that is none of Rack's ({error})") from error
        return cls(Manifest.parse(json.dumps(content).encode(), where), place, ready, data)


def read_mark(server: Server) -> Mark | None:
    data = server.read()
    return None if data is None else Mark.parse(data, server.address)


def remove(server: Server, mark: Mark) -> None:
    """Remove a store: first its mark, so that it is not there any more, whatever is left.

    Whoever publishes it may have been stopped when it had its name already: then its shards are of that store.
    """
    name, is_passing, _ = str(server.address.parts.store).rpartition(_PASSING)
    if is_passing:
        other = server_of(server.named(name), None)
        try:
            published = read_mark(other)
        finally:
            other.close()
        if published is not None and published.place == mark.place:
            server.change(mark.data, None)
            return
    if server.change(mark.data, None):
        server.remove(mark.place, mark.manifest.shards)


class Servers(Site):
    """Stores on servers."""

    def key(self, path: str, mode: Mode) -> object:
        assert isinstance(path, Address)
        return path, path.parts, mode.flag == "r", mode.timeout, mode.durability

    def store(self, path: str, request: Request, mode: Mode) -> tuple[OpenServed, Callable[[], Any]]:
        assert isinstance(path, Address)
        return OpenServed(path, request, mode), lambda: _open_or_create(path, request, mode)

    def read(self, path: str) -> Manifest | None:
        assert isinstance(path, Address)
        server = server_of(path, None)
        try:
            mark = read_mark(server)
            return None if mark is None else mark.manifest
        finally:
            server.close()

    def check_absent(self, path: str) -> None:
        if self.read(path) is not None:
            raise _there(path)

    def shape(self, source: Manifest) -> dict[str, Any]:
        return {"shards": source.shards, "engine": None}

    def anonymous(self, target: str | None, beside: str) -> str:
        if target is not None:
            assert isinstance(target, Address)
            return server_of(target, None).sibling(_random())
        with importing():
            from tempfile import gettempdir

        return files.anonymous_path(os.path.join(gettempdir(), "rack"), anywhere=True)

    def discard(self, manifest: Manifest, path: str) -> None:
        assert isinstance(path, Address)
        server = server_of(path, None)
        try:
            mark = read_mark(server)
            if mark is not None:  # whatever it says: nobody else knows the name
                remove(server, mark)
        finally:
            server.close()

    def publish(self, manifest: Manifest, source: str, target: str, durability: str) -> None:
        assert isinstance(source, Address)
        assert isinstance(target, Address)
        here, there = server_of(source, None), server_of(target, None)
        try:
            mark = read_mark(here)
            if mark is None or mark.manifest.id != manifest.id:
                raise StoreNotFoundError(errno.ENOENT, "what was made was removed meanwhile", source)
            if not there.change(None, mark.data):
                self.discard(manifest, source)
                raise _there(target)
            here.change(mark.data, None)
        finally:
            here.close()
            there.close()


def _random() -> str:
    return f"{_PASSING}{os.urandom(_RANDOM).hex()}"


def _there(path: str) -> StoreExistsError:
    return StoreExistsError(errno.EEXIST, "an operation that makes a store does not replace one", path)


def _open_or_create(path: Address, request: Request, mode: Mode) -> tuple[Server, Manifest, str]:
    """Come into the store, making it as ``mode`` says; return its servers, its manifest, and where its shards are."""
    server = server_of(path, mode.timeout)
    try:
        engine = served_by(path)
        layout = request.layout or path.layout
        if request.kind == "queue":
            if layout not in (None, "ordered"):
                raise UnsupportedOperation(
                    f"{path}: a queue needs the ordered layout, and the URL asks for another one"
                )
            layout = "ordered"
        request = request._replace(engine=engine, layout=layout, shards=request.shards or None)
        replaces = mode.flag == "n"
        while True:
            mark = read_mark(server)
            if mark is None and mode.flag in "rw":
                raise StoreNotFoundError(errno.ENOENT, 'there is no such store; flag="c" makes one', path).in_words(
                    "there is no such store"
                )
            if mark is None or replaces:
                # Of a queue each shard is asked for jobs.
                most = DEFAULT_SHARDS if request.kind == "queue" else server.default_shards
                keys = request.key_serdes
                chosen = server.layout(layout, keys is not None and keys.digest is not None)
                manifest = Manifest.new(request._replace(shards=request.shards or most, layout=chosen))
                if _made(server, manifest, mark, path):
                    replaces = False
                continue
            if not mark.ready:
                server.prepare(mark.place, mark.manifest.id, mark.manifest.shards)
                server.change(mark.data, Mark.of(mark.manifest, mark.place, True).data)
                continue
            mark.manifest.reconcile(request, path)
            return server, mark.manifest, mark.place
    except BaseException:
        server.close()
        raise


def _made(server: Server, manifest: Manifest, replaced: Mark | None, path: Address) -> bool:
    """Have the mark of a new store; False: somebody else was quicker."""
    place: str = path.parts.store
    if replaced is not None:
        place += _random()  # whoever still writes to the old one does not write to this
    elif not server.is_free(place, manifest.shards):
        if server.read() is not None:
            return False
        raise CorruptShardError(
            errno.EEXIST,
            "something is in the way of a new store's shards, and may hold data: the mark of its store is missing."
            " Restore that, or choose another name",
            path,
        )
    if not server.change(None if replaced is None else replaced.data, Mark.of(manifest, place).data):
        return False
    if replaced is not None:
        server.remove(replaced.place, replaced.manifest.shards)
    return True


SERVERS = Servers()
