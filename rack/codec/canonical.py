"""The canonical form of a key: keys that are equal, in whatever process they were made, have one form.

Most keys have a *plain* form: the number, str, bytes, tuple or frozenset that marshal can hold and that equals them.
All others are *packed*: a tree of tuples ``(tag, part, ...)`` for everything that marshal does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rack.codec import forms, named
from rack.codec.failure import RefusedError, is_failure, type_name
from rack.codec.forms import Form
from rack.codec.plain import is_numpy_scalar
from rack.codec.serdes import Serdes
from rack.errors import DeserializationError

_type = type
_NAN = float("nan")
_UNCHANGED = frozenset((str, bytes, int, type(None), type(...)))
_BUILTIN = frozenset((bool, float, complex, tuple, frozenset))


class NotPlainError(RefusedError):
    """A key has no plain form."""


def plain(key: Any) -> Any:
    """Return the plain form of a key.

    :raises NotPlainError: it has none, but it can be packed.
    :raises RefusedError: it has no canonical form at all.
    """
    kind = type(key)
    if kind in _UNCHANGED:
        return key
    if kind is tuple:
        return tuple(map(plain, key))
    if kind in _BUILTIN:
        return _of_builtin(key, kind, plain)
    tag, *parts = ("unread",) if kind is Unread else _form(key, kind)
    if tag:
        raise NotPlainError("which has no place here")
    return plain(parts[0])


def pack(key: Any, other: Serdes | None = None) -> Any:
    """Return the packed form of a key. What has no canonical form is dumped by ``other``.

    :raises RefusedError: there is no canonical form, nor ``other``.
    """

    def packed(key: Any) -> Any:
        kind = type(key)
        if kind in _UNCHANGED:
            return key
        if kind is tuple:
            return "t", *map(packed, key)
        if kind in _BUILTIN:
            return _of_builtin(key, kind, packed)
        if kind is Unread:
            return key.form
        tag, *parts = _form(key, kind, other)
        return (tag, *map(packed, parts)) if tag else packed(parts[0])

    return packed(key)


def unpack(form: Any, other: Serdes | None = None, blind: bool = False) -> Any:
    """Return the key of a packed form. ``blind``: without the classes of the program, for which Unread stands.

    :raises DeserializationError: a class is not there, or not registered.
    :raises Exception: it is no packed form.
    """

    def unpacked(form: Any) -> Any:
        kind = type(form)
        if kind is frozenset:
            return frozenset(map(unpacked, form))
        if kind is not tuple:
            return form
        tag, *parts = form
        if tag == "t":
            return tuple(map(unpacked, parts))
        if tag in forms.LOAD:
            return forms.LOAD[tag](*parts)
        load = _LOAD_NAMED[tag]
        if blind:
            for part in parts:
                unpacked(part)
            return Unread(form)
        if load is None:
            if other is None:
                raise DeserializationError("a key was dumped by the serdes that the store was made with: give it")
            return other.loads(*parts)
        return load(*map(unpacked, parts))

    return unpacked(form)


class Unread:
    """Stands for a key, or a part of one, that takes a class of the program's."""

    __slots__ = ("form",)

    def __init__(self, form: Form) -> None:
        self.form = form

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unread) and self.form == other.form

    def __hash__(self) -> int:
        return hash(self.form)

    def __repr__(self) -> str:
        return f"<{' '.join(map(str, self.form))}>"


def is_read(key: Any) -> bool:
    """Whether no part of a key is Unread."""
    return type(key) is not Unread and (type(key) not in (tuple, frozenset) or all(map(is_read, key)))


def _of_builtin(key: Any, kind: type, of: Callable[[Any], Any]) -> Any:
    if kind is bool:
        return int(key)
    if kind is float:
        return _NAN if key != key else int(key) if key.is_integer() else key
    if kind is complex:
        if key.imag == 0:
            return of(key.real)
        # adding 0.0 turns -0.0 into 0.0 and nothing else
        return complex(*(part + 0.0 if part == part else _NAN for part in (key.real, key.imag)))
    items = frozenset(map(of, key))
    if len(items) != len(key):
        raise RefusedError("which has several NaNs, that are one here")
    return items


def _form(key: Any, kind: type, other: Serdes | None = None) -> Form:
    """Return the form of a key that is of no builtin type."""
    registered = _registered.get(kind)
    if registered is not None:
        form = registered.to_plain(key)
        return ("", form) if _is_same(form, key) else ("registered", *named.name_of(kind), form)
    found = forms.nearest(kind)
    if found is not None:
        base, of = found
        form = of(key)
        # A subclass is the same key as its base if it compares as that does, or equals the object of the base.
        if kind is base or (kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__):
            return form
        if _is_same(_object_of(form), key):
            return form
    foreign = _foreign(key, kind)
    if foreign is not None and _is_same(_object_of(foreign), key):
        return foreign
    try:
        form = named.form_of(key, kind)
        if form is None:
            raise RefusedError(named.why_not(kind))
    except RefusedError:
        if other is None:
            raise
        return "other", other.dumps(key)
    return form


def _foreign(key: Any, kind: type) -> Form | None:
    """Return the form of what may equal an object of Python's without being of its type."""
    if kind is memoryview:
        return "", key.tobytes()
    if is_numpy_scalar(kind):
        item = key.item()
        if key.dtype.kind in "mM":  # a date or a time; as a mere int the unit would be lost
            return None if type(item) is int else ("", item)
        if not is_numpy_scalar(type(item)):
            return "", item
    return forms.of_number(key)


def _object_of(form: Form) -> Any:
    tag, *parts = form
    return forms.LOAD[tag](*parts) if tag else parts[0]


def _is_same(one: Any, key: Any) -> bool:
    """Whether a dict would take one for the other."""
    try:
        return bool(key == one) and hash(key) == hash(one)
    except Exception as error:
        if not is_failure(error):
            raise
        return False


# Types that the program has given a form


class _Registered(NamedTuple):
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


_registered: dict[type, _Registered] = {}
_registered_names: dict[tuple[str, str], _Registered] = {}


def register_key(type: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any]) -> None:
    """Have objects of a type be keys of dicts and elements of sets: say what their canonical form is.

    Types with an ``__eq__`` of their own need it. Enums, named tuples, dataclasses and classes of attrs need none. An
    object that equals its own form (a subclass of str that equals str, say) is that key, and comes back as it.

    Call it in every process that reads or writes such keys, best in the module that defines the type. Each subclass
    needs a call of its own. Another call for a type replaces the first one. What is in stores stays as it is, so do not
    change a form that is in use.

    O(1). Not atomic: call it before other threads use such keys.

    :param type: the type. It must be found by its name in its module, as for pickle.
    :param to_plain: turns an object of it into another key: a str, an int, a tuple of such, ... Objects that are equal
        must give forms that are equal, and others must not.
    :param from_plain: turns that form back into an equal object.
    :raises TypeError: ``type`` is no type, has a form already (str, int, date, ...) or cannot be found by its name; or
        a function is none.

    >>> import re
    >>> from rack import PersistentSet, register_key
    >>> register_key(re.Pattern, lambda pattern: (pattern.pattern, pattern.flags), lambda form: re.compile(*form))
    >>> with PersistentSet(tmp / "patterns") as patterns:
    ...     patterns.add(re.compile("a+")), patterns.add(re.compile("a+")), list(patterns)
    (True, False, [re.compile('a+')])
    """
    if not isinstance(type, _type):
        raise TypeError(f"register_key({type!r}, ...): must be a type")
    if type in _UNCHANGED | _BUILTIN or ((found := forms.nearest(type)) is not None and found[0] is type):
        raise TypeError(f"register_key({type_name(type)}, ...): Rack has a form for it")
    for function in (to_plain, from_plain):
        if not callable(function):
            raise TypeError(f"register_key({type_name(type)}, ...): {function!r} is not a function")
    try:
        name = named.name_of(type)
    except RefusedError as error:
        raise TypeError(f"register_key({type_name(type)}, ...): a type {error}") from None
    _registered[type] = _registered_names[name] = _Registered(to_plain, from_plain)


def _load_registered(module: str, qualname: str, form: Any) -> Any:
    name = module, qualname
    if name not in _registered_names:
        named.find(module, qualname)  # it may be registered where it is defined
        if name not in _registered_names:
            raise DeserializationError(
                f"a key is of {module}.{qualname}, which is not registered in this process: call"
                f" rack.register_key({module}.{qualname}, to_plain, from_plain) before the store is read"
            )
    return _registered_names[name].from_plain(form)


_LOAD_NAMED: dict[str, Callable[..., Any] | None] = {
    "enum": named.load_enum,
    "flag": named.load_flag,
    "fields": named.load_fields,
    "name": named.find,
    "registered": _load_registered,
    "other": None,
}
