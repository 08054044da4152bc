"""Serializers: object <-> bytes, for values (and, where their bytes are canonical, for keys: see ``rack.codec.keys``).

A ``serdes`` argument is the name of a preset, an object or module with ``dumps`` and ``loads`` (or ``encode`` and
``decode``), or a pair ``(loads, dumps)``. :func:`resolve` turns any of them into a :class:`Serdes` and tries it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from rack.codec import digest, presets
from rack.codec.failure import RefusedError, is_failure
from rack.errors import MismatchError, SerializationError
from rack.system.imports import importing

#: What a user may give as ``serdes=`` or ``key_serdes=``.
SerdesArgument = Any
Probe = tuple[Any, bytes]


class Serdes:
    """A serializer.

    ``name`` is what the manifest records. ``dump_scalar`` does what ``dumps`` does, for values of the types in
    ``rack.codec.plain.SCALARS`` alone, and with fewer calls. ``probe`` is None for presets; for a serializer of the
    user it is an object and the bytes that stand for it, recorded so that another serializer is noticed when the store
    is reopened. ``integers`` tells how it writes whole numbers, if that is simple: "int32" or "decimal" (see
    ``Shard.increase``); else it is None.
    """

    __slots__ = ("dump_scalar", "dumps", "integers", "loads", "name", "probe")

    dumps: presets.Dump
    loads: presets.Load
    dump_scalar: presets.Dump

    def __init__(
        self,
        name: str,
        dumps: presets.Dump,
        loads: presets.Load,
        dump_scalar: presets.Dump | None = None,
        probe: Probe | None = None,
        integers: bytes | None = None,
    ) -> None:
        self.name = name
        self.dumps = dumps
        self.loads = loads
        self.dump_scalar = dump_scalar or dumps
        self.probe = probe
        self.integers = integers

    def check_reads(self, recorded: Probe) -> None:
        """Raise MismatchError unless this serializer reads what the store's own serializer wrote."""
        value, data = recorded
        if not _gives(self.loads, data, value):
            raise MismatchError(
                f"serdes {self.name!r} does not read what this store was written with: it should turn {data!r} into"
                f" {value!r}. Give the serdes that the store was made with"
            )


class _LazySerdes(Serdes):
    """A serializer whose module is imported when it is first used."""

    __slots__ = ("_make",)

    def __init__(
        self,
        name: str,
        make: Callable[[], tuple[presets.Dump, presets.Load, presets.Dump]],
        integers: bytes | None = None,
    ) -> None:
        self.name = name
        self.probe = None
        self.integers = integers
        self._make = make

    def __getattr__(self, attribute: str) -> Any:
        if attribute not in ("dumps", "loads", "dump_scalar"):
            raise AttributeError(attribute)
        self.dumps, self.loads, self.dump_scalar = self._make()
        return getattr(self, attribute)


MARSHAL = Serdes("marshal", presets.dump_marshal, presets.load_marshal, presets.marshal_scalar, integers=b"int32")
PRESETS: dict[str, Serdes] = {
    "marshal": MARSHAL,
    "pickle": _LazySerdes("pickle", presets.make_pickle),
    "json": _LazySerdes("json", presets.make_json, b"decimal"),
    "str": Serdes("str", presets.dump_str, presets.load_str),
    "bytes": Serdes("bytes", presets.dump_bytes, bytes),
    # A codec for keys (rack.codec.ordered); the values beside such keys are marshalled.
    "ordered": Serdes("ordered", MARSHAL.dumps, MARSHAL.loads, MARSHAL.dump_scalar, None, MARSHAL.integers),
}
_MODULES = {"marshal": "marshal", "pickle": "pickle", "_pickle": "pickle", "json": "json"}

# What a serializer of the user is tried with, in this order; one that takes none of them is taken on trust.
_PROBES: tuple[Any, ...] = ("rack", b"rack", 1, None, [], {})
_NOTHING: Any = object()


def resolve(argument: SerdesArgument, what: str = "serdes") -> Serdes:
    """Return the :class:`Serdes` that a ``serdes=`` argument means, after a trial.

    :raises ValueError: no preset of that name.
    :raises TypeError: not a preset's name, nor an object with two such functions, nor such a pair.
    :raises SerializationError: it gives no bytes, whatever it is tried with, or is a pair the wrong way round.
    """
    if isinstance(argument, Serdes):
        return argument
    if isinstance(argument, str):
        if argument not in PRESETS:
            known = (*PRESETS, digest.NAME) if what == "key_serdes" else PRESETS
            raise ValueError(f"{what}={argument!r} is not a preset; there are {', '.join(map(repr, known))}")
        return PRESETS[argument]
    name = getattr(argument, "__name__", None)
    if isinstance(argument, ModuleType) and name in _MODULES:
        return PRESETS[_MODULES[name]]
    for dump_name, load_name in (("dumps", "loads"), ("encode", "decode")):
        if hasattr(argument, dump_name) and hasattr(argument, load_name):
            dumps, loads = getattr(argument, dump_name), getattr(argument, load_name)
            name = name or type(argument).__qualname__
            break
    else:
        if not (isinstance(argument, tuple | list) and len(argument) == 2):
            raise TypeError(
                f"{what}={argument!r} is not the name of a preset, an object with dumps and loads (or encode and"
                " decode), or a pair (loads, dumps)"
            )
        loads, dumps = argument
        name = f"({_name(loads)}, {_name(dumps)})"
    if not (callable(dumps) and callable(loads)):
        raise TypeError(f"{what}={argument!r}: both functions must be callable")
    return _try_out(f"custom:{name}", dumps, loads, what)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _try_out(name: str, dumps: Callable[[Any], Any], loads: Callable[[Any], Any], what: str) -> Serdes:
    """Return the serializer with the first probe that comes back equal; one that does not is not of its types."""
    made = [(value, raw) for value in _PROBES if (raw := _attempt(dumps, value)) is not _NOTHING]
    given = [(value, raw) for value, raw in made if _to_bytes(raw) is not None]
    if len(made) == len(_PROBES) and not given:
        value, raw = made[0]
        raise SerializationError(
            f"{what}: {name} gave {type(raw).__name__}, not bytes, for {value!r}; a pair is (loads, dumps), in this"
            " order"
        )
    if not given:
        loads = _from_either(loads)
    elif all(isinstance(raw, str) for _, raw in given):
        loads = _from_text(loads)
    dump = _giving_bytes(dumps)
    for value, raw in given:
        data = _to_bytes(raw)
        if _gives(loads, data, value):
            return Serdes(name, dump, loads, probe=(value, data))  # type: ignore[arg-type]
    # A pair the wrong way round: ``loads`` makes text or bytes of what is neither, and ``dumps`` reads that.
    for value in _PROBES[2:]:
        data = _attempt(loads, value)
        if data is not _NOTHING and _to_bytes(data) is not None and _gives(dumps, data, value):
            raise SerializationError(f"{what}: {name} is the wrong way round: a pair is (loads, dumps), in this order")
    return Serdes(name, dump, loads)


def _attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    """Return what a function of the user's makes of an argument; ``_NOTHING`` if it raises because of it.

    Decoders raise what they like. What is no known failure is one if it comes again; an interrupt does not.
    """
    try:
        return function(argument)
    except (MemoryError, RecursionError, TimeoutError):
        raise
    except Exception as error:
        if not is_failure(error):
            try:
                function(argument)
            except type(error):
                return _NOTHING
            raise
        return _NOTHING


def _gives(function: Callable[[Any], Any], argument: Any, value: Any) -> bool:
    """Whether a function makes an object of the argument that equals ``value``. (``==`` of arrays is an array.)"""
    made = _attempt(function, argument)
    return made is not _NOTHING and _attempt(lambda other: (other == value) is True, made) is True


def _to_bytes(raw: Any) -> bytes | None:
    """Return what a serializer of the user made as bytes; None: that is neither text nor has a buffer."""
    if raw.__class__ is bytes:
        return raw
    if isinstance(raw, str):
        return raw.encode()
    try:
        return presets.dump_bytes(raw)
    except RefusedError:
        return None


def _giving_bytes(dumps: Callable[[Any], Any]) -> presets.Dump:
    def dump(value: Any) -> bytes:
        raw = dumps(value)
        if raw.__class__ is bytes:
            return raw
        data = _to_bytes(raw)
        if data is None:
            raise TypeError(f"dumps gave {type(raw).__name__}, not bytes; a pair is (loads, dumps), in this order")
        return data

    return dump


def _from_text(loads: Callable[[Any], Any]) -> presets.Load:
    def load(data: bytes) -> Any:
        return loads(data.decode())

    return load


def _from_either(loads: Callable[[Any], Any]) -> presets.Load:
    """For a serializer that was seen to make neither bytes nor text: it is given bytes, or text if it refuses them."""

    def load(data: bytes) -> Any:
        try:
            return loads(data)
        except Exception as error:
            if not is_failure(error):
                raise
            try:
                return loads(data.decode())
            except Exception as other:
                raise (error if is_failure(other) else other) from None

    return load


class _Import:
    """Stands for a module where objects are pickled, which modules cannot be."""

    def __init__(self, module: ModuleType) -> None:
        self._name = module.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        with importing():
            from importlib import import_module

        return import_module, (self._name,)


def picklable(argument: SerdesArgument) -> SerdesArgument:
    """Return what a ``serdes=`` argument can be pickled as; it is read back as the argument itself."""
    return _Import(argument) if isinstance(argument, ModuleType) else argument
