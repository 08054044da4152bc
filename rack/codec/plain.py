"""Which objects are all of builtin types, and so come back from a serializer equal and of the same type."""

from __future__ import annotations

from gc import get_referents
from types import CodeType
from typing import Any

Types = frozenset[type]

#: The types whose values every serializer gives back as they were, or refuses.
SCALARS: Types = frozenset((type(None), bool, int, float, complex, str, bytes))
_STR = frozenset((str,))


def is_flat(value: Any, scalars: Types) -> bool:
    """Whether a value is a tuple, list or dict of scalars."""
    kind = type(value)
    # of a dict the values, and keys that are not str
    parts = get_referents(value) if kind is dict else value if kind is tuple or kind is list else (value,)
    return scalars.issuperset(map(type, parts))


def is_plain(value: Any, scalars: Types, containers: Types, str_keys: bool = False) -> bool:
    """Whether a value is of these exact types, down to the last part. ``str_keys``: those of dicts are all str.

    Looks at the types of all parts of one depth at once. A part that is there twice, or contains itself, is looked at
    once.
    """
    if type(value) not in containers:
        return type(value) in scalars
    level = [value]
    seen = {id(value)}
    while level:
        if str_keys and not all(_STR.issuperset(map(type, part)) for part in level if type(part) is dict):
            return False
        parts = get_referents(*level)  # the items of sequences and sets, the values of dicts, and keys that are not str
        if CodeType in containers:
            parts.extend(part.co_consts for part in level if type(part) is CodeType)
        kinds = set(map(type, parts))
        if not kinds <= scalars | containers:
            return False
        inner = {id(part): part for part in parts if type(part) in containers} if kinds & containers else {}
        level = [inner[number] for number in inner.keys() - seen]
        seen.update(inner)
    return True


def is_numpy_scalar(kind: type) -> bool:
    """Whether this is the type of one of NumPy's scalars. That is known without importing NumPy."""
    return any(base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__)


def python_number(value: Any) -> Any:
    """Return the number of Python's that a NumPy number is; anything else as it is."""
    if type(value) in SCALARS or not is_numpy_scalar(type(value)) or value.dtype.kind not in "biufc":
        return value
    number = value.item()  # of a long double that is itself
    return number if type(number) in SCALARS else value
