"""Keys that take a class of the program's: enums, dataclasses and classes of attrs, and classes and functions as keys.

A class is recorded by its name, as pickle does. Objects with fields are keys if it is by them that they compare, so
if their ``__eq__`` is the one that dataclasses or attrs made; they are made anew by a call of the class.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from rack.codec.failure import RefusedError, type_name
from rack.codec.forms import Form
from rack.errors import DeserializationError
from rack.system.imports import importing

#: The fields by which objects of a class compare, in order of their names: what they are called in a call of the class,
#: or None if that does not take them.
Fields = dict[str, str | None]

_IDENTITY: Any = object.__eq__

_fields: WeakKeyDictionary[type, Fields | None] = WeakKeyDictionary()


def form_of(key: Any, kind: type) -> Form | None:
    """Return the form of a key whose class is found by name; None if it has none."""
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(kind, enum.EnumMeta):
        if kind.__eq__ is not _IDENTITY and fields_of(kind) is None:
            return None
        if issubclass(kind, enum.Flag):
            return "flag", *name_of(kind), key._value_
        return "enum", *name_of(kind), key._name_
    if isinstance(key, type):
        return ("name", *name_of(key)) if kind.__eq__ is _IDENTITY else None
    if kind in (FunctionType, BuiltinFunctionType):
        return "name", *name_of(key)
    fields = fields_of(kind)
    if fields is None:
        return None
    return "fields", *name_of(kind), ",".join(fields), *(getattr(key, name) for name in fields)


def find(module: str, qualname: str) -> Any:
    """Return what has this name.

    :raises DeserializationError: nothing has.
    """
    try:
        if module not in sys.modules:
            with importing():
                __import__(module)
        found: Any = sys.modules[module]
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise DeserializationError(f"a key is of {module}.{qualname}, which cannot be found here ({error})") from error
    return found


def name_of(named: Any) -> tuple[str, str]:
    """Return the module and the name in it by which a class or function is found.

    :raises RefusedError: it is not found.
    """
    module, qualname = named.__module__, named.__qualname__
    if module == "__mp_main__":  # what multiprocessing calls the main module in processes that it spawns
        module = "__main__"
    try:
        found = find(module, qualname)
    except DeserializationError:
        found = None
    if found is not named:
        raise RefusedError(f"which cannot be found by its name, {module}.{qualname}: it has to be defined in a module")
    return module, qualname


def load_enum(module: str, qualname: str, name: str) -> Any:
    try:
        return find(module, qualname)[name]
    except KeyError:
        raise DeserializationError(f"a key is {module}.{qualname}.{name}, and there is no such member here") from None


def load_flag(module: str, qualname: str, value: int) -> Any:
    return find(module, qualname)(value)


def load_fields(module: str, qualname: str, names: str, *values: Any) -> Any:
    kind = find(module, qualname)
    fields = fields_of(kind)
    if fields is None or ",".join(fields) != names:
        raise DeserializationError(
            f"a key is a {module}.{qualname} of the fields {names}, and here the class does not compare by these"
        )
    return kind(**{name: value for name, value in zip(fields.values(), values, strict=True) if name is not None})


def fields_of(kind: type) -> Fields | None:
    """Return the fields by which objects of a class compare; None if it is not just by fields that they do."""
    if kind not in _fields:
        owner = next(base for base in kind.__mro__ if "__eq__" in vars(base))
        found = None
        if "__attrs_attrs__" in vars(owner):
            found = _of_attrs(owner)
        elif "__dataclass_fields__" in vars(owner):
            found = _of_dataclass(owner)
        _fields[kind] = None if found is None else dict(sorted(found))
    return _fields[kind]


def _of_dataclass(owner: Any) -> Iterable[tuple[str, str | None]] | None:
    with importing():
        import dataclasses

    fields = dataclasses.fields(owner)
    like = dataclasses.make_dataclass(
        "Like", [(field.name, object, dataclasses.field(compare=field.compare)) for field in fields]
    )
    if _does(owner.__eq__) != _does(like.__eq__):  # it is the program's own
        return None
    return [(field.name, field.name if field.init else None) for field in fields if field.compare]


def _does(function: Any) -> tuple[Any, ...]:
    """Return what tells whether two functions do the same."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        return (function,)
    return code.co_code, code.co_names, code.co_consts, code.co_varnames, code.co_freevars


def _of_attrs(owner: Any) -> Iterable[tuple[str, str | None]] | None:
    code = getattr(owner.__eq__, "__code__", None)
    attributes = [attribute for attribute in owner.__attrs_attrs__ if attribute.eq]
    if code is None or not code.co_filename.startswith("<attrs generated"):
        return None
    if any(attribute.eq_key is not None for attribute in attributes):
        return None
    return [
        (attribute.name, (attribute.alias or attribute.name.lstrip("_")) if attribute.init else None)
        for attribute in attributes
    ]


def why_not(kind: type) -> str:
    """Say why objects of a class have no canonical form, and what can be done."""
    name = type_name(kind)
    if kind.__hash__ is None:
        return "which is not hashable"
    if kind.__eq__ is _IDENTITY:
        why = "which equals nothing but itself, and so nothing in another process: give it an __eq__ and __hash__"
        return f"{why}, and a canonical form, rack.register_key({name}, to_plain, from_plain)"
    return f"whose == is its own: give it a canonical form, rack.register_key({name}, to_plain, from_plain)"
