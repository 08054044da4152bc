"""What a serializer's failure is, and what is said about it: which part of an object it was, and what can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rack.codec.plain import SCALARS
from rack.errors import RackError, SerializationError

# What serializers raise to say that an object, or some bytes, are not for them.
_FAILURES = (
    *(TypeError, ValueError, ArithmeticError, AttributeError, LookupError),
    *(EOFError, ImportError, NotImplementedError, BufferError),
)
# Modules whose own exceptions, which are derived from none of these, say the same (struct.error, zlib.error, ...).
_MODULES = frozenset(
    (
        "pickle",
        "_pickle",
        "struct",
        "zlib",
        "lzma",
        "_lzma",
        "gzip",
        "msgpack",
        "msgspec",
        "cbor2",
        "_cbor2",
        "zstandard",
    )
)
_DEEP = 100  # how far down the part is looked for that is to blame


def is_failure(error: BaseException) -> bool:
    """Whether a serializer that raised this speaks of its input.

    Anything else (a time limit, no memory, an interrupt, an error of Rack's own) came from elsewhere, and is to be
    raised as it is.
    """
    if isinstance(error, RackError):
        return False
    return isinstance(error, _FAILURES) or any(
        base.__module__.partition(".")[0] in _MODULES for base in type(error).__mro__
    )


def is_damage(error: BaseException) -> bool:
    """As is_failure, of stored bytes that may be anything. A length or a depth in them may be out of all reason."""
    return is_failure(error) or isinstance(error, MemoryError | RecursionError | RackError)


def unserializable(
    value: object, what: str, serdes: str, error: Exception, dumps: Callable[[Any], object]
) -> SerializationError:
    """Return the error for a key or value that ``dumps`` does not hold; raise ``error`` itself if it is no failure.

    It names the part that is to blame, which is found by trying ``dumps`` on the parts, and what to do.
    """
    if not is_failure(error):
        raise error
    steps, part = _culprit(value, dumps)
    if part is not value:
        try:
            dumps(part)
        except Exception as own:
            if not is_failure(own):
                raise
            error = own
    place = f"{what}{steps}: {type_name(type(part))}"
    reason = "" if "unmarshallable" in str(error) else f", {error}" if isinstance(error, RefusedError) else f": {error}"
    said = f"{what} of type {_kind(value)} cannot be stored ({place}{reason})"
    if serdes.startswith("canonical"):  # there the reason says all
        return SerializationError(said)
    said += f": {_HELD.get(serdes, f'serdes {serdes!r} refused it')}; {_advice(part, what, serdes)}"
    return SerializationError(said).in_words(said.replace("serdes='pickle'", "serdes 'pickle'"))


class RefusedError(TypeError):
    """Raised by Rack's own serializers for what would not come back as it is. The text goes on from the type's name."""


def type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _culprit(value: Any, dumps: Callable[[Any], object]) -> tuple[str, Any]:
    """Return the part that is not held, while all of its own parts are, and the way to it."""
    steps = ""
    for _ in range(_DEEP):
        for step, part in _parts(value):
            if not _is_held(part, dumps):
                steps, value = steps + step, part
                break
        else:
            break
    return steps, value


def _is_held(part: Any, dumps: Callable[[Any], object]) -> bool:
    try:
        dumps(part)
    except Exception as error:
        if not is_failure(error):
            raise
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a container, or of an object with named fields, and the way to each."""
    if isinstance(value, dict):
        for key, part in dict.items(value):
            yield f" key {_shown(key)}", key
            yield f"[{_shown(key)}]", part
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield f" element {_shown(part)}", part
    else:
        fields: Iterable[Any] = getattr(type(value), "__dataclass_fields__", None) or (
            field.name for field in getattr(type(value), "__attrs_attrs__", ())
        )
        for name in fields:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _shown(part: object) -> str:
    if type(part) not in SCALARS:
        return f"<{type_name(type(part))}>"
    text = in_short(part)
    return text if len(text) <= 40 else f"{text[:37]}..."


def in_short(value: object) -> str:
    """Return ``repr(value)``; of what has none (an int of thousands of digits has not) the type."""
    try:
        return repr(value)
    except Exception as error:
        if not is_failure(error):
            raise
        return f"<{type_name(type(value))}>"


_HELD = {
    "marshal": "marshal holds None, bool, int, float, complex, str, bytes and tuples, lists, sets, dicts of them",
    "json": "serdes 'json' holds None, bool, int, float, str, and lists and dicts (whose keys are str) of them",
    "str": "serdes 'str' holds str",
    "bytes": "serdes 'bytes' holds bytes",
    "ordered": "serdes 'ordered' holds None, bool, int, float, str, bytes and tuples of them",
}
_BASES: tuple[type, ...] = (str, bytes, int, float, complex, tuple, list, dict, set, frozenset)


def _advice(part: object, what: str, serdes: str) -> str:
    kind = type(part)
    if what == "key":
        return "a store made without key_serdes holds keys of more types"
    other = "give a serdes of your own that holds it" if serdes == "pickle" else "serdes='pickle' holds most objects"
    if callable(getattr(part, "tolist", None)):
        return f"store its .tolist(), or its .tobytes(); {other}"
    if serdes == "json" and kind is tuple:
        return f"store list(...) of it; {other}"
    for base in _BASES:
        if kind is not base and issubclass(kind, base):
            return f"store {base.__name__}(...) of it; {other}"
    if isinstance(part, bytearray | memoryview):
        return f"store bytes(...) of it; {other}"
    return other


def _kind(value: object) -> str:
    """Name the type of a value, and of a builtin container what is in it."""
    name = type_name(type(value))
    if isinstance(value, list | tuple | set | frozenset | dict):
        kinds = sorted({type(item).__qualname__ for item in (value.values() if isinstance(value, dict) else value)})
        if kinds:
            name += f" (of {', '.join(kinds[:5])})"
    return name
