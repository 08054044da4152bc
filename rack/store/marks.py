"""The marks of stores on servers, and how a store gets another name there: as a whole, whenever somebody is killed.

A mark is under a store's name, and its shards are at a *place*. The first of them says in its *identity* which name
owns the place, once that was changed. That one key decides; all else follows from it:

1. the mark of the new name is put, with ``source``: it does not count unless the place is owned by that name. What was
   there goes on counting, and is in it (``before``);
2. the place gets its new owner, by compare-and-swap: the store has moved. The mark of the old name does not count now;
3. that is removed, what was replaced is put aside or removed, and the new mark is made a plain one.

Whoever comes to write finishes that (:func:`settle`), or takes it back: then the identity is changed first, so that a
mover who is only slow cannot take step 2 any more. Each mark and each owner has a number of its own, so that none is
taken for an earlier one. A place without an owner (the empty name) is being removed.
"""

from __future__ import annotations

import errno
import os
from itertools import count
from typing import NamedTuple

from rack.errors import ManifestError, StoreExistsError, StoreInUseError, StoreNotFoundError
from rack.shard import server_of
from rack.shard.server import Server
from rack.store.manifest import Manifest
from rack.system.imports import importing

_PASSING, _RANDOM = "~", 6  # a name that no other store has ends with this, and so many bytes in hex
_ATTEMPTS = 10


class Mark(NamedTuple):
    """A mark, and the bytes that it is."""

    manifest: Manifest
    place: str
    ready: bool  # the shards were made
    number: str
    source: str | None  # the name from which the store is being moved
    before: str | None  # the mark that this one replaces
    aside: str | None  # the name that the store of that gets; None: it is removed
    data: bytes

    @classmethod
    def new(
        cls,
        manifest: Manifest,
        place: str,
        *,
        ready: bool = False,
        source: str | None = None,
        before: Mark | None = None,
        aside: str | None = None,
    ) -> Mark:
        replaced = None if before is None else before.data.decode()
        return cls(manifest, place, ready, _random(), source, replaced, aside, b"")._packed()

    def _packed(self) -> Mark:
        with importing():
            import json

        own = self._asdict()
        del own["manifest"], own["data"]
        return self._replace(data=json.dumps(self.manifest._asdict() | own).encode())

    def changed(self) -> Mark:
        """Return the plain mark that this one becomes."""
        return self._replace(source=None, before=None, aside=None)._packed()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Mark:
        with importing():
            import json

        try:
            content = json.loads(data)
            own = [content.pop(name, None) for name in ("place", "ready", "number", "source", "before", "aside")]
        except (ValueError, TypeError, AttributeError) as error:
            raise ManifestError(f"{where} has a mark on the server that is none of Rack's ({error})") from error
        place, ready, number, source, before, aside = own
        manifest = Manifest.parse(json.dumps(content).encode(), where)
        if not (isinstance(place, str) and isinstance(number, str)):
            raise ManifestError(f"{where} has a mark on the server that is none of Rack's (it says no place)")
        return cls(manifest, place, ready, number, source, before, aside, data)

    def replaced(self, where: str) -> Mark | None:
        return None if self.before is None else self.parse(self.before.encode(), where)

    def identity(self, owner: str) -> bytes:
        """Return the identity of the first shard once the place is that of ``owner``."""
        return b"rack %b 0 %b %b" % (self.manifest.id.encode(), _random().encode(), _bytes(owner))

    def owner(self, identity: bytes | None) -> str | None:
        """Return the name to which an identity says that the place belongs; None: it says nothing of this store."""
        words = (identity or b"").split(b" ", 4)
        is_own = len(words) == 5 and words[1] == self.manifest.id.encode()
        return words[4].decode("utf-8", "surrogateescape") if is_own else None

    def is_of(self, name: str, identity: bytes | None) -> bool:
        """Return whether the mark counts, which is under ``name``."""
        owner = self.owner(identity)
        return owner == name or (owner is None and self.source is None)


def read_mark(server: Server, data: bytes | None = None) -> Mark | None:
    """Return the mark that counts; None: there is no store. ``data``: what is under the name; None: it is read."""
    data = server.read() if data is None else data
    while data is not None:
        mark = Mark.parse(data, server.address)
        if mark.is_of(server.name, server.identity(mark.place)):
            return mark
        data = None if mark.source is None or mark.before is None else mark.before.encode()
    return None


def settle(server: Server) -> Mark | None:
    """As :func:`read_mark`, for who is going to change it: what others have left undone is finished, or taken back."""
    while True:
        data = server.read()
        if data is None:
            return None
        mark = Mark.parse(data, server.address)
        identity = server.identity(mark.place)
        owner = mark.owner(identity)
        if not mark.is_of(server.name, identity):
            if owner == "" and mark.source is None:
                _finish_removing(server, mark, identity, data)
                continue
            # From now on who wanted to move it cannot.
            if mark.source is not None and owner != "" and _is_identity_of(mark, identity):
                fresh = mark.identity(owner or mark.source)
                if not server.own(mark.place, identity, fresh):
                    continue
            before = mark.before if mark.source is not None else None
            server.change(data, None if before is None else before.encode())
        elif not mark.ready:
            server.prepare(mark.place, mark.manifest.id, mark.manifest.shards)
            server.change(data, mark._replace(ready=True)._packed().data)
        elif mark.source is None and mark.before is None:
            return mark
        else:
            if (replaced := mark.replaced(server.address)) is not None:
                _put_away(server, replaced, mark.aside)
            server.change(data, mark.changed().data)


def remove(server: Server, mark: Mark) -> bool:
    """Remove a store that :func:`settle` has found; return whether it still was there."""
    return _end(server, mark, mark.data)


def _end(server: Server, mark: Mark, data: bytes | None) -> bool:
    identity = server.identity(mark.place)
    if not (mark.owner(identity) == "" or mark.is_of(server.name, identity)):
        return False
    if mark.owner(identity) != "":
        last = mark.identity("")
        if not server.own(mark.place, identity, last):
            return _end(server, mark, data)
        identity = last
    _finish_removing(server, mark, identity, data)
    return True


def _finish_removing(server: Server, mark: Mark, identity: bytes | None, data: bytes | None) -> None:
    server.remove(mark.place, mark.manifest.id, mark.manifest.shards)
    if data is not None:
        server.change(data, None)
    server.own(mark.place, identity, None)


def _put_away(server: Server, mark: Mark, aside: str | None) -> None:
    """Remove a store whose mark was replaced, or move it to ``aside``, or the next name that is free."""
    if aside is None:
        _end(server, mark, None)
        return
    for number in count(1):
        name = aside if number == 1 else f"{aside}-{number}"
        there = server_of(server.named(name), None)
        try:
            if mark.owner(server.identity(mark.place)) not in (None, server.name):
                return  # somebody else has done it
            if settle(there) is None and _moved(server, mark, there, None, None):
                settle(there)
                return
        finally:
            there.close()


def move(source: Server, target: Server, replaces: str | None = None, aside: str | None = None) -> None:
    """Give a store the name of ``target``, on the same servers.

    It takes the place of the store with the id ``replaces``. That gets the name ``aside``, or the next one that is
    free; None: it is removed.

    :raises StoreNotFoundError: there is no store; or not the one that it is to replace.
    :raises StoreExistsError: there is another one of that name.
    """
    for _ in range(_ATTEMPTS):
        mark = settle(source)
        if mark is None:
            raise StoreNotFoundError(errno.ENOENT, "there is no such store", source.address)
        replaced = settle(target)
        if replaced is None and replaces is not None:
            raise StoreNotFoundError(errno.ENOENT, "the store that was to be replaced was removed", target.address)
        if replaced is not None and replaced.manifest.id != replaces:
            raise StoreExistsError(errno.EEXIST, "there is a store of that name", target.address)
        if _moved(source, mark, target, replaced, aside):
            source.change(mark.data, None)
            settle(target)
            return
    raise StoreInUseError(
        errno.EBUSY, "others move or replace the same stores again and again; try again", source.address
    )


def _moved(source: Server, mark: Mark, target: Server, replaced: Mark | None, aside: str | None) -> bool:
    """Take the steps 1 and 2; return whether nobody was in the way."""
    identity = source.identity(mark.place)
    if not mark.is_of(source.name, identity) or not _is_identity_of(mark, identity):
        return False
    new = Mark.new(mark.manifest, mark.place, ready=True, source=source.name, before=replaced, aside=aside)
    before = None if replaced is None else replaced.data
    if not target.change(before, new.data):
        return False
    if source.own(mark.place, identity, mark.identity(target.name)):
        return True
    target.change(new.data, before)
    return False


def _is_identity_of(mark: Mark, identity: bytes | None) -> bool:
    return identity is not None and identity.split(b" ")[1:2] == [mark.manifest.id.encode()]


def random() -> str:
    """Return the end of a name that no other store has."""
    return f"{_PASSING}{_random()}"


def _random() -> str:
    return os.urandom(_RANDOM).hex()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
