"""The serializers that have a name. Each gives back an equal value of the same type, or refuses it.

"bytes" takes whatever has a buffer, and gives back bytes: that is what it is for. Neither marshal nor json does it by
itself: the one takes all buffers for bytes, the other tuples for lists, and keys that are numbers for str. So a value
is looked at, or what was made of it. Values of the types in :data:`rack.codec.plain.SCALARS` need no look: for them
the bare serializers have names here, too, so that an operation that knows the type saves a call.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from functools import cache
from types import CodeType
from typing import Any

from rack.codec.failure import RefusedError, in_short, is_failure
from rack.codec.plain import SCALARS, is_flat, is_plain
from rack.system.imports import importing

Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]
Search = Callable[..., Any]

# marshal

marshal_scalar = marshal.dumps
load_marshal = marshal.loads
# Beside the scalars it takes Ellipsis, and StopIteration, which is the only class.
_MARSHAL_LEAVES = SCALARS | {type(...), type}
_FEW = 4  # items, whose types are looked at sooner than what was made of them
_MARSHAL_CONTAINERS = frozenset((tuple, list, dict, set, frozenset, slice, CodeType))


def dump_marshal(value: Any) -> bytes:
    """Marshal a value. It refuses all but its own types, save objects with a buffer: those it takes for bytes.

    The code of bytes in what it makes is "s", or that with the highest bit, and their length follows. Mostly neither
    is there, and then nobody has to look at the value.
    """
    data = marshal_scalar(value)
    if 115 in data or 243 in data:
        kind = type(value)
        if not (kind is tuple or kind is list or kind is dict) or len(value) > _FEW or not is_flat(value, SCALARS):
            _check_buffers(value, data)
    return data


def _check_buffers(value: Any, data: bytes) -> None:
    """Refuse a value of which some part has become bytes, and is not."""
    size = len(data)
    plain, marked = (_codes or _compile())[0 if size < 256 else (size.bit_length() - 1) // 8]
    if not (plain(data) or (243 in data and marked(data))) or (size < 256 and is_flat(value, SCALARS)):
        return
    for search in (plain, marked):
        found = search(data)
        while found:
            start = found.start()
            if start + 5 + int.from_bytes(data[start + 1 : start + 5], "little") <= size:
                if _are_builtin(value):
                    return
                raise RefusedError("which would come back as bytes")
            found = search(data, start + 1)


# For data whose length takes one to four bytes: what finds each code where the length that follows takes no more.
_codes: tuple[tuple[Search, Search], ...] = ()


def _compile() -> tuple[tuple[Search, Search], ...]:
    with importing():
        import re

    def search(code: bytes, width: int) -> Search:
        return re.compile(code + b"." * width + b"\0" * (4 - width), re.DOTALL).search

    global _codes
    _codes = tuple((search(b"s", width), search(b"\xf3", width)) for width in range(1, 5))
    return _codes


def _are_builtin(value: Any) -> bool:
    """Whether all parts of a value that marshal takes are of builtin types.

    Pickle's walk over a value, which is C, asks about every object that it has no code of its own for.
    """
    try:
        _inspector()(_Nowhere, 4).dump(value)
    except _NotBuiltinError:
        return False
    except Exception as error:
        if not (is_failure(error) or isinstance(error, RecursionError)):  # marshal goes deeper than pickle
            raise
        return is_plain(value, _MARSHAL_LEAVES, _MARSHAL_CONTAINERS)
    return True


class _NotBuiltinError(Exception):
    pass


class _Nowhere:
    write = len  # where the pickle goes


@cache
def _inspector() -> Any:
    with importing():
        import pickle

    class Inspector(pickle.Pickler):
        def reducer_override(self, part: Any) -> Any:
            kind = type(part)
            if kind is CodeType:
                return tuple, (part.co_consts,)
            if kind in (complex, slice, type(...)) or (kind is type and part in (complex, slice, tuple, StopIteration)):
                return NotImplemented
            raise _NotBuiltinError

    return Inspector


# pickle


def make_pickle() -> tuple[Dump, Load, Dump]:
    with importing():
        import pickle

    def dump(value: Any) -> bytes:
        return pickle.dumps(value, 5)

    return dump, pickle.loads, dump


# json

_JSON_LEAVES = SCALARS - {complex, bytes}
_JSON_CONTAINERS = frozenset((list, dict))


def make_json() -> tuple[Dump, Load, Dump]:
    with importing():
        import json

    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

    def dump_scalar(value: Any) -> bytes:
        try:
            text = encode(value)
        except ValueError:
            text = _encoded(value, encode)
        return text.encode("utf-8", "surrogatepass")

    def load(data: bytes) -> Any:
        try:
            return json.loads(data)
        except json.JSONDecodeError:
            raise
        except ValueError:  # more digits than Python reads
            return json.loads(data, parse_int=_int_of)

    def dump(value: Any) -> bytes:
        if not is_plain(value, _JSON_LEAVES, _JSON_CONTAINERS, str_keys=True):
            raise RefusedError(_why_not_json(value))
        return dump_scalar(value)

    return dump, load, dump_scalar


# Python writes and reads ints of some thousand digits at most (sys.set_int_max_str_digits); Decimals of any number.


def _encoded(value: Any, encode: Callable[[Any], str]) -> str:
    """As ``encode``, of a value that JSON has, with ints of any size."""
    if type(value) is int:
        with importing():
            from decimal import Decimal

        return str(Decimal(value))
    if type(value) is list:
        return f"[{','.join(_encoded(part, encode) for part in value)}]"
    if type(value) is dict:
        return f"{{{','.join(f'{encode(key)}:{_encoded(part, encode)}' for key, part in value.items())}}}"
    return encode(value)


def _int_of(digits: str) -> int:
    with importing():
        from decimal import Decimal

    return int(Decimal(digits))


def _why_not_json(value: Any) -> str:
    if type(value) is dict:
        key = next((key for key in value if type(key) is not str), None)
        return f"with the key {in_short(key):.40}, which would come back as str"
    made = list if isinstance(value, tuple) else next(filter(value.__class__.__mro__.__contains__, _JSON_BASES), None)
    return "which JSON does not have" if made is None else f"which would come back as {made.__name__}"


_JSON_BASES = (str, int, float, list, dict)


# str and bytes


def dump_str(text: Any) -> bytes:
    """UTF-8; lone surrogates (as ``os.fsdecode`` makes) are kept. Byte order is code point order."""
    if type(text) is not str:
        raise RefusedError("which would come back as str" if isinstance(text, str) else "which is not str")
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def load_str(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def dump_bytes(data: Any) -> bytes:
    """Return the bytes of whatever has a buffer (array.array, NumPy's arrays, mmap, ...)."""
    if type(data) is bytes:
        return data
    try:
        view = memoryview(data)
    except (TypeError, ValueError, BufferError) as error:
        raise RefusedError(f"which has no buffer that can be read: {error}") from None
    with view:
        if "O" in "".join(view.format.split(":")[::2]):  # names of fields are between colons
            raise RefusedError("whose buffer holds addresses of objects")
        return view.tobytes()
