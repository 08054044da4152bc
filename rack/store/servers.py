"""Where stores live on servers: a mark there says that there is one, what it is, and where its shards are.

The mark is a manifest in JSON, and with it the *place*: the name that the shards have. That is the store's own, but for
a store that was made under another name, or in place of another one: shards are never renamed, as a cluster would have
to move them (:mod:`rack.store.marks`). A mark that is not *ready* is that of a store whose shards are being made.
Whoever finds it goes on with that, so nobody waits for a maker who was killed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rack.errors import CorruptShardError, ManifestError, StoreExistsError, StoreNotFoundError, UnsupportedOperation
from rack.shard import served_by, server_of
from rack.shard.address import Address
from rack.shard.server import Server
from rack.store import files
from rack.store.manifest import DEFAULT_SHARDS, Manifest, Request
from rack.store.marks import Mark, move, random, read_mark, remove, settle
from rack.store.opening import Mode
from rack.store.served import OpenServed
from rack.store.site import Site
from rack.system.imports import importing


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
        with closing(server_of(path, None)) as server:
            mark = read_mark(server)
            return None if mark is None else mark.manifest

    def check_absent(self, path: str) -> None:
        if self.read(path) is not None:
            raise _there(path)

    def shape(self, source: Manifest) -> dict[str, Any]:
        return {"shards": source.shards, "engine": None}

    def anonymous(self, target: str | None, beside: str) -> str:
        if target is not None:
            assert isinstance(target, Address)
            return server_of(target, None).sibling(random())
        with importing():
            from tempfile import gettempdir

        return files.anonymous_path(os.path.join(gettempdir(), "rack"), anywhere=True)

    def discard(self, manifest: Manifest, path: str) -> None:
        assert isinstance(path, Address)
        with closing(server_of(path, None)) as server:
            mark = settle(server)
            if mark is not None:  # whatever it says: nobody else knows the name
                remove(server, mark)

    def publish(self, manifest: Manifest, source: str, target: str, durability: str) -> None:
        assert isinstance(source, Address)
        assert isinstance(target, Address)
        with closing(server_of(source, None)) as here, closing(server_of(target, None)) as there:
            try:
                move(here, there)
            except StoreExistsError:
                self.discard(manifest, source)
                raise _there(target) from None


def _there(path: str) -> StoreExistsError:
    return StoreExistsError(errno.EEXIST, "an operation that makes a store does not replace one", path)


def _open_or_create(path: Address, request: Request, mode: Mode) -> tuple[Server, Mark]:
    """Come into the store, making it as ``mode`` says; return its servers, and its mark."""
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
            mark = read_mark(server) if mode.flag == "r" else settle(server)
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
                settle(server)
                continue
            mark.manifest.reconcile(request, path)
            return server, mark
    except BaseException:
        server.close()
        raise


def _made(server: Server, manifest: Manifest, replaced: Mark | None, path: Address) -> bool:
    """Have the mark of a new store; False: somebody else was quicker, or it is to be tried again."""
    place = server.name
    own = place + random()
    if replaced is not None:
        place = own  # whoever still writes to the old one does not write to this
    elif not server.is_free(place, manifest.shards):
        if server.read() is not None:
            return False
        if any(_is_at(place, data) for _, data in server.marks("")):
            place = own  # a store that had the name has another one now
        elif not _was_removed(server, place):
            raise CorruptShardError(
                errno.EEXIST,
                "something is in the way of a new store's shards, and may hold data: the mark of its store is missing."
                " Restore that, or choose another name",
                path,
            )
    return server.change(None if replaced is None else replaced.data, Mark.new(manifest, place, before=replaced).data)


def _is_at(place: str, data: bytes) -> bool:
    try:
        return Mark.parse(data, "").place == place
    except ManifestError:  # of another program, or of a newer Rack
        return False


def _was_removed(server: Server, place: str) -> bool:
    """Remove the identity that is all that is left of a store, and says so; return whether it was that."""
    identity = server.identity(place)
    is_last = identity is not None and identity.count(b" ") == 4 and identity.endswith(b" ")
    return is_last and server.own(place, identity, None)


SERVERS = Servers()
