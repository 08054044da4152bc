"""Serializers: object <-> bytes, for values (and, where their bytes are canonical, for keys: see ``rack.codec.keys``).

A ``serdes`` argument is the name of a preset, an object or module with ``dumps`` and ``loads``, or a pair
``(loads, dumps)``. :func:`resolve` turns any of them into a :class:`Serdes` and tries it.
"""

from __future__ import annotations

import json
import marshal
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rack.errors import MismatchError, SerializationError

#: What a user may give as ``serdes=`` or ``key_serdes=``.
SerdesArgument = Any


@dataclass(frozen=True, slots=True)
class Serdes:
    """A serializer.

    ``name`` is what the manifest records. ``probe`` is None for presets; for a serializer of the user it is an object
    and the bytes that stand for it, recorded so that another serializer is noticed when the store is reopened.
    """

    name: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]
    probe: tuple[Any, bytes] | None = None

    def check_reads(self, recorded: tuple[Any, bytes]) -> None:
        """Raise MismatchError unless this serializer reads what the store's own serializer wrote."""
        value, data = recorded
        try:
            same = self.loads(data) == value
        except Exception:
            same = False
        if not same:
            raise MismatchError(
                f"serdes {self.name!r} does not read what this store was written with: it should turn {data!r} into"
                f" {value!r}. Give the serdes that the store was made with"
            )


def dump_str(text: str) -> bytes:
    """UTF-8; lone surrogates (as ``os.fsdecode`` makes) are kept. Byte order is code point order."""
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        return str.encode(text, "utf-8", "surrogatepass")


def load_str(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def dump_bytes(data: bytes) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"serdes 'bytes' holds bytes, not {type(data).__name__}")


def _dump_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _dump_pickle(value: Any) -> bytes:
    return pickle.dumps(value, 5)


MARSHAL = Serdes("marshal", marshal.dumps, marshal.loads)
PRESETS = {
    "marshal": MARSHAL,
    "pickle": Serdes("pickle", _dump_pickle, pickle.loads),
    "json": Serdes("json", _dump_json, json.loads),
    "str": Serdes("str", dump_str, load_str),
    "bytes": Serdes("bytes", dump_bytes, bytes),
    # A codec for keys (rack.codec.ordered); the values beside such keys are marshalled.
    "ordered": Serdes("ordered", marshal.dumps, marshal.loads),
}
_MODULES = {"marshal": "marshal", "pickle": "pickle", "_pickle": "pickle", "json": "json"}

# Tried in this order when a serializer of the user is opened; one that takes none of them is taken on trust.
_PROBES: tuple[Any, ...] = ("rack", b"rack", 1, None, [], {})


def resolve(argument: SerdesArgument, what: str = "serdes") -> Serdes:
    """Return the :class:`Serdes` that a ``serdes=`` argument means, after a trial round trip.

    :raises ValueError: no preset of that name.
    :raises TypeError: not a preset's name, nor an object with ``dumps`` and ``loads``, nor such a pair.
    :raises SerializationError: its output is not bytes, or a round trip does not give back an equal object.
    """
    if isinstance(argument, Serdes):
        return argument
    if isinstance(argument, str):
        if argument not in PRESETS:
            raise ValueError(f"{what}={argument!r} is not a preset; there are {', '.join(map(repr, PRESETS))}")
        return PRESETS[argument]
    name = getattr(argument, "__name__", None)
    if hasattr(argument, "dumps") and hasattr(argument, "loads"):
        if name in _MODULES:
            return PRESETS[_MODULES[name]]
        dumps, loads = argument.dumps, argument.loads
        name = name or type(argument).__qualname__
    elif isinstance(argument, tuple | list) and len(argument) == 2:
        loads, dumps = argument
        name = f"({_name(loads)}, {_name(dumps)})"
    else:
        raise TypeError(
            f"{what}={argument!r} is not the name of a preset, an object with dumps and loads, or a pair (loads, dumps)"
        )
    if not (callable(dumps) and callable(loads)):
        raise TypeError(f"{what}={argument!r}: dumps and loads must be callable")
    return _try_out(f"custom:{name}", dumps, loads, what)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _try_out(name: str, dumps: Callable[[Any], Any], loads: Callable[[Any], Any], what: str) -> Serdes:
    for value in _PROBES:
        try:
            raw = dumps(value)
        except Exception:
            continue  # a serializer may be for some types only
        text = isinstance(raw, str)
        if not isinstance(raw, str | bytes | bytearray | memoryview):
            raise SerializationError(
                f"{what}: {name}.dumps({value!r}) gave {type(raw).__name__}, not bytes; a pair is (loads, dumps),"
                " in this order"
            )
        serdes = Serdes(name, _to_bytes(dumps), _from_text(loads) if text else loads)
        data = serdes.dumps(value)
        try:
            back = serdes.loads(data)
        except Exception as error:
            raise SerializationError(f"{what}: {name} cannot load what it dumped for {value!r}: {error}") from error
        if back != value:
            raise SerializationError(f"{what}: {name} turns {value!r} into {back!r} in a round trip")
        return Serdes(name, serdes.dumps, serdes.loads, (value, data))
    _check_order(name, dumps, loads, what)
    return Serdes(name, _to_bytes(dumps), loads)


def _check_order(name: str, dumps: Callable[[Any], Any], loads: Callable[[Any], Any], what: str) -> None:
    """Raise SerializationError for a pair that is the wrong way round: ``loads`` dumps, and ``dumps`` loads that."""
    for value in _PROBES:
        try:
            data = loads(value)
            back = dumps(data)
        except Exception:
            continue
        if isinstance(data, str | bytes | bytearray | memoryview) and back == value:
            raise SerializationError(f"{what}: {name} is the wrong way round: a pair is (loads, dumps), in this order")


def _to_bytes(dumps: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    def dump(value: Any) -> bytes:
        raw = dumps(value)
        if raw.__class__ is bytes:
            return raw
        if isinstance(raw, str):
            return raw.encode()
        if isinstance(raw, bytes | bytearray | memoryview):
            return bytes(raw)
        raise TypeError(f"dumps gave {type(raw).__name__}, not bytes")

    return dump


def _from_text(loads: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    def load(data: bytes) -> Any:
        return loads(data.decode())

    return load


def unserializable(value: object, what: str, serdes: str, cause: Exception) -> SerializationError:
    """The error for a key or value that ``serdes`` cannot hold: names the type and says what to do."""
    held = {
        "marshal": "marshal holds None, bool, int, float, complex, str, bytes and tuples, lists, sets, dicts of them",
        "str": "serdes 'str' holds str",
        "bytes": "serdes 'bytes' holds bytes",
        "ordered": "serdes 'ordered' holds None, bool, int, float, str, bytes and tuples of them",
    }.get(serdes, f"serdes {serdes!r} refused it")
    problem = f"{what} of type {_type_path(value)} cannot be stored ({cause}): {held}"
    if serdes == "pickle":
        return SerializationError(f"{problem}; give a serdes of your own that holds it").in_words(problem)
    return SerializationError(f"{problem}; serdes='pickle' holds most objects").in_words(
        f"{problem}; serdes 'pickle' holds most objects"
    )


def _type_path(value: object) -> str:
    cls = type(value)
    inner = ""
    if isinstance(value, list | tuple | set | frozenset | dict):
        kinds = sorted({type(item).__qualname__ for item in (value.values() if isinstance(value, dict) else value)})
        inner = f" (of {', '.join(kinds[:5])})" if kinds else ""
    module = "" if cls.__module__ == "builtins" else cls.__module__ + "."
    return f"{module}{cls.__qualname__}{inner}"
