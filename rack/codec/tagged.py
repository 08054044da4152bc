"""Objects as JSON and back, whatever marshal holds: what JSON does not have is an object with one key, its *tag*.

``{"$bytes": "base64"}``, ``{"$tuple": [...]}``, ``{"$set": [...]}``, ``{"$frozenset": [...]}``,
``{"$complex": [real, imag]}``, ``{"$ellipsis": null}``, ``{"$float": "nan"}`` (or "inf", "-inf", or the eight bytes of
another NaN in hex), ``{"$str": "base64"}`` for a str with surrogates, and ``{"$dict": [[key, value], ...]}`` for a dict
that JSON would change, or that looks like a tag itself: one with a single key that begins with "$".
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Callable
from math import inf, isfinite, nan
from typing import Any

from rack.codec.failure import RefusedError, type_name

_SIMPLE = frozenset((type(None), bool, int))
_FLOATS = {"nan": nan, "inf": inf, "-inf": -inf}

# allow_nan=False: what is no JSON has a tag.
_to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Any) -> str:
    """Return an object as JSON, on one line; it can be encoded as UTF-8.

    :raises RefusedError: it has a part of another type.
    :raises RecursionError: it is nested too deeply.
    """
    return _to_text(encode(value))


def loads(text: str | bytes) -> Any:
    """Return the object that :func:`dumps` has made JSON of. Any other JSON is what it is, too.

    :raises ValueError: it is no JSON, or has a tag that is not known or has no such content.
    """
    try:
        return decode(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(value: Any) -> Any:
    """Return what JSON has instead of an object. See :func:`dumps`."""
    kind = type(value)
    if kind is str:
        return value if _is_text(value) else {"$str": to_base64(value.encode("utf-8", "surrogatepass"))}
    if kind in _SIMPLE:
        return value
    if kind is float:
        return value if isfinite(value) else {"$float": _float_name(value)}
    if kind is list:
        return [*map(encode, value)]
    if kind is dict:
        if all(type(key) is str and _is_text(key) for key in value) and not _is_tag(value):
            return {key: encode(part) for key, part in value.items()}
        return {"$dict": [[encode(key), encode(part)] for key, part in value.items()]}
    if kind is bytes:
        return {"$bytes": to_base64(value)}
    if kind is tuple:
        return {"$tuple": [*map(encode, value)]}
    if kind is set or kind is frozenset:
        return {f"${kind.__name__}": sorted(map(encode, value), key=_to_text)}  # equal sets have equal JSON
    if kind is complex:
        return {"$complex": [encode(value.real), encode(value.imag)]}
    if value is ...:
        return {"$ellipsis": None}
    raise RefusedError(f"of type {type_name(kind)}, which has no place in JSON")


def decode(item: Any) -> Any:
    """Return the object that :func:`encode` has made ``item`` of.

    :raises ValueError: a tag is not known, or has no such content.
    """
    kind = type(item)
    if kind is list:
        return [*map(decode, item)]
    if kind is not dict:
        return item
    if not _is_tag(item):
        return {key: decode(part) for key, part in item.items()}
    ((tag, content),) = item.items()
    load = _LOAD.get(tag)
    if load is None:
        raise ValueError(f"the tag {tag!r} is not known")
    try:
        return load(content)
    except (TypeError, ValueError, AttributeError, struct.error) as error:
        raise ValueError(f"{tag!r} with a content that it does not have: {error}") from None


def to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def from_base64(text: str) -> bytes:
    """:raises ValueError: it is no base64."""
    return binascii.a2b_base64(text.encode(), strict_mode=True)


def _is_tag(item: dict[Any, Any]) -> bool:
    return len(item) == 1 and next(iter(item))[:1] == "$"


def _is_text(text: str) -> bool:
    """Whether UTF-8 has it: it has no surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _float_name(number: float) -> str:
    """Name a float that JSON does not have. There are many NaNs, which marshal tells apart."""
    data = struct.pack(">d", number)
    return next((name for name, known in _FLOATS.items() if struct.pack(">d", known) == data), data.hex())


def _float_of(name: str) -> float:
    found: float = _FLOATS[name] if name in _FLOATS else struct.unpack(">d", bytes.fromhex(name))[0]
    return found


def _complex_of(parts: list[Any]) -> complex:
    real, imag = (float(decode(part)) for part in parts)
    return complex(real, imag)


def _ellipsis_of(content: None) -> Any:
    if content is not None:
        raise ValueError("it has none")
    return ...


def _parts(content: Any) -> list[Any]:
    if type(content) is not list:
        raise ValueError("no list")
    return [*map(decode, content)]


_LOAD: dict[str, Callable[[Any], Any]] = {
    "$bytes": from_base64,
    "$str": lambda content: from_base64(content).decode("utf-8", "surrogatepass"),
    "$float": _float_of,
    "$complex": _complex_of,
    "$tuple": lambda content: tuple(_parts(content)),
    "$set": lambda content: set(_parts(content)),
    "$frozenset": lambda content: frozenset(_parts(content)),
    "$ellipsis": _ellipsis_of,
    "$dict": lambda content: {decode(key): decode(part) for key, part in content},
}
