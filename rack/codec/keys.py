"""Key codecs: hashable object <-> canonical bytes. Keys that compare equal get equal bytes.

``dict`` holds that ``1``, ``1.0`` and ``True`` are one key; a serializer alone gives them two or three. Marshal's
default version also gives one string several encodings (interned or not, shared or not), so keys are marshalled in
version 2, which has neither mark, after everything in them has been put in its one form (``rack.codec.canonical``).
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any

from rack.codec import digest, ordered
from rack.codec.canonical import NotPlainError, pack, plain, unpack
from rack.codec.failure import RefusedError, is_failure, unserializable
from rack.codec.presets import dump_str, load_str
from rack.codec.serdes import Probe, Serdes, SerdesArgument, resolve

_marshal = marshal.dumps
_unmarshal = marshal.loads
_VERSION = 2
_PACKED = b"\0"  # in front of a key that marshal cannot hold; no marshalled object begins with it


class KeyCodec:
    """``dumps`` raises TypeError for an unhashable key, SerializationError for one it cannot hold.

    ``load_plain`` is faster than ``loads``, and fails for some keys. ``ordered`` tells whether the order of the bytes
    is the order of the keys. ``digest``: what makes the digests, if it is these that are stored; ``loads`` gives them.
    """

    __slots__ = ("digest", "dumps", "load_plain", "loads", "name", "ordered", "probe")

    def __init__(
        self,
        name: str,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes], Any],
        ordered: bool = False,
        probe: Probe | None = None,
        load_plain: Callable[[bytes], Any] | None = None,
        digest: digest.Digester | None = None,
    ) -> None:
        self.name = name
        self.dumps = dumps
        self.loads = loads
        self.ordered = ordered
        self.probe = probe
        self.load_plain = load_plain or loads
        self.digest = digest

    @property
    def preset(self) -> str | None:
        """The name of the preset that stands for this codec."""
        if self.digest is not None:
            return self.name
        return next((name for name, codec in _PRESETS.items() if codec is self), None)


def resolve_codec(key_serdes: SerdesArgument, serdes: Serdes, elements: bool = False) -> KeyCodec:
    """Return the codec for ``key_serdes``, or the one that goes with ``serdes`` when that is None.

    ``elements``: ``serdes`` is for the elements of a set. Then a serializer of the user's is said to give equal bytes
    for equal ones, and dumps those that have no canonical form.
    """
    if key_serdes is None:
        if elements and serdes.name.startswith("custom:"):
            return _canonical_codec(f"{CANONICAL.name}+{serdes.name}", serdes)
        return _PRESETS.get(serdes.name, CANONICAL)
    if digest.is_named(key_serdes):
        return _digest_codec(digest.normalized(key_serdes))
    chosen = resolve(key_serdes, "key_serdes")
    return _PRESETS.get(chosen.name) or _custom_codec(chosen)


def _canonical_codec(name: str, other: Serdes | None = None, blind: bool = False) -> KeyCodec:
    def dumps(key: Any) -> bytes:
        hash(key)  # an unhashable key is the TypeError that dict raises
        digest.check_no_digest(key)
        try:
            return record(key)
        except Exception as error:
            raise unserializable(key, "key", name, error, record) from error

    def record(key: Any) -> bytes:
        hash(key)
        try:
            return _marshal(plain(key), _VERSION)
        except NotPlainError:
            pass
        except RefusedError:
            if other is None:
                raise
        data = _PACKED + _marshal(pack(key, other), _VERSION)
        if not blind and _PACKED + _marshal(pack(loads(data), other), _VERSION) != data:
            raise RefusedError("which is another one when it is made anew of its parts")
        return data

    def loads(data: bytes) -> Any:
        return unpack(_unmarshal(data[1:]), other, blind) if data[:1] == _PACKED else _unmarshal(data)

    return KeyCodec(name, dumps, loads, load_plain=_unmarshal)


def _custom_codec(serdes: Serdes) -> KeyCodec:
    """Keys in the user's own bytes. A key that has a plain form is dumped as that, if the serializer takes it."""

    def dumps(key: Any) -> bytes:
        if type(key) in _FLAT:
            form = key
        else:
            hash(key)
            digest.check_no_digest(key)
            form = _plain_or_itself(key)
        try:
            try:
                return serdes.dumps(form)
            except Exception as error:
                if form is key or not is_failure(error):
                    raise
                return serdes.dumps(key)
        except Exception as error:
            raise unserializable(key, "key", serdes.name, error, serdes.dumps) from error

    return KeyCodec(serdes.name, dumps, serdes.loads, probe=serdes.probe)


def _plain_or_itself(key: Any) -> Any:
    try:
        return plain(key)
    except RefusedError:
        return key


def _typed_codec(name: str, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> KeyCodec:
    """A codec whose ``dumps`` takes some exact types, and so the plain form of every other key that equals one."""

    def dump_plain(key: Any) -> bytes:
        return dumps(plain(key))

    def dump(key: Any) -> bytes:
        try:
            return dumps(key)
        except Exception as error:
            if not is_failure(error):
                raise
        hash(key)
        digest.check_no_digest(key)
        try:
            return dump_plain(key)
        except Exception as error:
            raise unserializable(key, "key", name, error, dump_plain) from error

    return KeyCodec(name, dump, loads, ordered=True)


def _dump_bytes(key: Any) -> bytes:
    if type(key) is not bytes:
        raise RefusedError("which is not bytes")
    return key


_FLAT = frozenset((str, bytes, int, type(None)))  # in a tuple of these nothing is to be changed
# A marshalled str is a tag, the length and UTF-8. Put together here it takes 0.15 us less than by marshal, which
# allocates a kilobyte, and shrinks it, for anything over 50 bytes.
_STR_TAGS = tuple(b"u" + length.to_bytes(4, "little") for length in range(512))
_any = _canonical_codec("canonical")


def _dump_canonical(key: Any) -> bytes:
    kind = type(key)
    if kind is str:
        try:
            data = key.encode()
            return _STR_TAGS[len(data)] + data  # type: ignore[no-any-return]
        except (UnicodeEncodeError, IndexError):
            return _marshal(key, _VERSION)
    if kind is bytes or kind is int or (kind is tuple and _FLAT.issuperset(map(type, key))):
        return _marshal(key, _VERSION)
    return _any.dumps(key)


def _digest_codec(name: str) -> KeyCodec:
    """The codec whose bytes are digests. There is one of each name: stores that have it have the same keys."""
    if name in _digest_codecs:
        return _digest_codecs[name]
    make, size = digest.digester(name)
    text = digest.TEXT

    def dumps(key: Any) -> bytes:
        kind = type(key)
        if kind is str:
            try:
                return make(key.encode(), text)
            except UnicodeEncodeError:
                return make(dump_str(key), text)
        if kind is bytes:
            return make(key)
        if kind is digest.Digest:
            return digest.stored(key, size, name)
        data = _dump_canonical(key)
        tag = _TAGS.get(data[:1])  # of what equals bytes or str, and is of another type
        return make(data, digest.OTHER) if tag is None else make(data[_HEAD:], tag)

    return _digest_codecs.setdefault(name, KeyCodec(name, dumps, digest.Digest, digest=make))


_digest_codecs: dict[str, KeyCodec] = {}
_TAGS = {b"s": digest.BYTES, b"u": digest.TEXT}  # of marshalled bytes and str: the code, the length, what they hold
_HEAD = 5

CANONICAL = KeyCodec("canonical", _dump_canonical, _any.loads, load_plain=_unmarshal)
#: Reads and verifies keys without the classes of the program: for these stands ``canonical.Unread``.
BLIND = _canonical_codec("canonical", blind=True)
_PRESETS = {
    "marshal": CANONICAL,
    "pickle": CANONICAL,
    "json": CANONICAL,
    "str": _typed_codec("str", dump_str, load_str),
    "bytes": _typed_codec("bytes", _dump_bytes, bytes),
    "ordered": _typed_codec("ordered", ordered.dumps, ordered.loads),
}
