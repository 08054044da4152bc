"""JSON Lines, as ``rack dump`` writes and ``rack load`` reads them: a header, a line for each entry, a last line.

Objects are written as :mod:`rack.codec.tagged` says. As a whole key or value there may be four tags more:
``{"$key": form}``, the canonical form of a key that is no plain one (a date, a Decimal, an enum, ...); ``{"$digest":
"hex"}``, what a store with digest keys has in place of a key; ``{"$pickle": "base64"}``, a pickle that holds more than
plain data; and ``{"$stored": "base64"}``, the stored bytes of what only a function of the user's understands. None of
these runs any code of the program's, to write it or to read it.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable
from typing import Any

from rack.codec import blind, digest, tagged
from rack.codec.failure import RefusedError, is_damage, unserializable
from rack.codec.keys import BLIND, CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import PRESETS, Serdes
from rack.errors import DeserializationError, told
from rack.shard.base import Pair
from rack.store.manifest import Manifest

FORMAT = "rack-dump"
VERSION = 1

_PACKED = b"\0"  # in front of a stored key that has a canonical form of its own (rack.codec.keys)
_MARSHAL = 2  # its version, for keys

#: What turns stored bytes into what JSON has for them.
ToItem = Callable[[bytes], Any]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def line(item: Any) -> bytes:
    return _encode(item).encode()


# Header and last line


def header(manifest: Manifest, durability: str) -> dict[str, Any]:
    """Return what the first line says: all that a store like this one is made of."""
    known = ("kind", "engine", "shards", "serdes", "key_serdes", "hash", "layout")
    found = {"format": FORMAT, "version": VERSION, **{name: getattr(manifest, name) for name in known}}
    probes = {name: probe for name, probe in manifest.probes.items() if name != "hash"}
    return found | {"durability": durability} | ({"probes": probes} if probes else {})


def end(entries: int) -> dict[str, Any]:
    """Return what the last line says: without it a dump was cut off."""
    return {"format": FORMAT, "entries": entries, "end": True}


# Stored bytes to JSON


def key_item(key_serdes: str) -> ToItem:
    """Return what turns stored keys of that serdes into JSON."""
    if digest.is_named(key_serdes):
        return lambda data: {"$digest": data.hex()}
    if key_serdes.partition("+")[0] == CANONICAL.name:
        return _canonical_item
    if key_serdes in PRESETS:
        return _item_of(key_serdes, resolve_codec(key_serdes, PRESETS[key_serdes]).loads)
    return stored_item


def value_item(serdes: str) -> ToItem:
    """Return what turns stored values of that serdes into JSON."""
    if serdes not in PRESETS:
        return stored_item
    if serdes == "pickle":
        return _item_of(serdes, blind.loads, lambda data: {"$pickle": tagged.to_base64(data)})
    return _item_of(serdes, PRESETS[serdes].loads, stored_item)


def stored_item(data: bytes) -> Any:
    return {"$stored": tagged.to_base64(data)}


def _item_of(serdes: str, load: Callable[[bytes], Any], otherwise: ToItem = stored_item) -> ToItem:
    """Return what loads and encodes; ``otherwise`` is for what loads, and has no place in JSON."""

    def item(data: bytes) -> Any:
        try:
            return tagged.encode(load(data))
        except (RefusedError, RecursionError):
            return otherwise(data)
        except Exception as error:
            raise _unreadable(serdes, data, error) from error

    return item


def _canonical_item(data: bytes) -> Any:
    try:
        if data[:1] == _PACKED:
            return {"$key": tagged.encode(marshal.loads(data[1:]))}
        return tagged.encode(marshal.loads(data))
    except Exception as error:
        raise _unreadable(CANONICAL.name, data, error) from error


def _unreadable(serdes: str, data: bytes, error: Exception) -> DeserializationError:
    if not is_damage(error):
        raise error
    return DeserializationError(f"serdes {serdes!r} cannot load stored bytes ({told(error)}): {data[:60]!r}")


# JSON to stored bytes


#: What a line is: an entry, as a store has it; a header or a last line; nothing; or, in words, why it is none of these.
Outcome = Pair | dict[str, Any] | None | str


class Reader:
    """Turns lines into what a store has for them, which is of that kind, and has that codec and serdes.

    ``raw``: whether stored bytes are taken as they are.
    """

    def __init__(self, kind: str, codec: KeyCodec, serdes: Serdes, raw: bool = False) -> None:
        is_canonical = codec.name.partition("+")[0] == CANONICAL.name
        self._has_values = kind != "set"
        self._dump_key = codec.dumps
        self._dump_packed = BLIND.dumps if is_canonical else codec.dumps
        self._serdes = serdes
        self._raw = raw

    def __call__(self, lines: list[bytes]) -> list[Outcome]:
        """Return what the lines are."""
        return list(map(self._outcome, lines))

    def _outcome(self, line: bytes) -> Outcome:
        try:
            return self._entry(json.loads(line.decode())) if line.strip() else None
        except RecursionError:
            return "nested too deeply"
        except (ValueError, TypeError) as error:
            return told(error)

    def _entry(self, item: Any) -> Outcome:
        if type(item) is not dict or "key" not in item:
            if type(item) is dict and item.get("format") == FORMAT:
                return item
            raise ValueError('no entry: that is an object with "key" and, in a dict, "value"')
        if ("value" in item) != self._has_values:
            raise ValueError("has no value" if self._has_values else "has a value, and the store is a set")
        if len(item) > 1 + self._has_values:
            raise ValueError(f"has {', '.join(map(repr, item.keys() - {'key', 'value'}))}, which is not known")
        return self.key(item["key"]), self.value(item["value"]) if self._has_values else b""

    def key(self, item: Any) -> bytes:
        """:raises ValueError, TypeError: it is no key, or the store cannot hold it."""
        if type(item) is dict and len(item) == 1:
            if "$key" in item:
                return self._dump_packed(_key_of(item["$key"]))
            if "$stored" in item:
                return self._raw_bytes(item["$stored"])
            if "$digest" in item:
                return self._dump_key(_digest_of(item["$digest"]))
        return self._dump_key(tagged.decode(item))

    def value(self, item: Any) -> bytes:
        """:raises ValueError, TypeError: it is no value, or the store cannot hold it."""
        if type(item) is dict and len(item) == 1:
            if "$pickle" in item:
                return self._pickle(item["$pickle"])
            if "$stored" in item:
                return self._raw_bytes(item["$stored"])
        return self.stored(tagged.decode(item))

    def stored(self, value: Any) -> bytes:
        """Return a value as it is stored.

        :raises SerializationError: the store cannot hold it.
        """
        try:
            return self._serdes.dumps(value)
        except Exception as error:
            raise unserializable(value, "value", self._serdes.name, error, self._serdes.dumps) from error

    def _raw_bytes(self, content: Any) -> bytes:
        if not self._raw:
            raise ValueError("has stored bytes that only the store's own functions understand: --raw takes them")
        return _bytes_of(content)

    def _pickle(self, content: Any) -> bytes:
        if self._serdes.name != "pickle":
            raise ValueError("has a pickle, which only a store with the serdes pickle can hold")
        data = _bytes_of(content)
        try:
            blind.loads(data)
        except Exception as error:
            if not is_damage(error):
                raise
            raise ValueError(f"has a pickle that is none: {told(error)}") from None
        return data


def stand_in(name: str, probe: list[str] | None) -> Serdes:
    """Return what stands for a serdes of the user's that is not at hand: it takes no objects.

    ``probe`` is what a manifest has of it: it is recorded in the new store, so that another serdes is noticed there.

    :raises ValueError: that is none.
    """
    if probe is None:
        return Serdes(name, _unable, _unable)
    value, data = marshal.loads(bytes.fromhex(probe[0])), bytes.fromhex(probe[1])
    return Serdes(name, _unable, lambda read: value if read == data else _unable(read), probe=(value, data))


def _unable(value: object) -> Any:
    raise TypeError("the store is of a serdes that is not Rack's, and takes stored bytes only")


def key_of(text: str) -> Any:
    """Return the key that JSON stands for.

    :raises ValueError: it stands for none.
    """
    item = json.loads(text)
    if type(item) is dict and item.keys() == {"$key"}:
        return _key_of(item["$key"])
    if type(item) is dict and item.keys() == {"$digest"}:
        return _digest_of(item["$digest"])
    return tagged.decode(item)


def _digest_of(content: Any) -> digest.Digest:
    try:
        return digest.Digest.fromhex(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'$digest' with a content that is no digest in hex: {error}") from None


def _key_of(content: Any) -> Any:
    try:
        return BLIND.loads(_PACKED + marshal.dumps(tagged.decode(content), _MARSHAL))
    except Exception as error:
        if not is_damage(error):
            raise
        raise ValueError(f"'$key' with a content that is no key: {told(error)}") from None


def _bytes_of(content: Any) -> bytes:
    if type(content) is not str:
        raise ValueError("has stored bytes that are no base64")
    return tagged.from_base64(content)
