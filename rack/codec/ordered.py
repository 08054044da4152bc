"""The "ordered" key codec: byte order is the values' order, so that ranges and prefixes mean what they say.

It holds None, bool, int of any size, float, bytes, str, and tuples of them at any depth. None sorts before numbers,
numbers before bytes, bytes before str, str before tuples; numbers compare by value whatever their type.

Every finite int and float is ``f * 2**e`` with ``0.5 <= f < 1``. A number is a tag for its sign, then ``e`` (biased,
with a length byte in front), then the binary digits of ``f``, seven to a byte, the lowest bit of each byte telling
whether another follows. The code of no number is the beginning of another's, so that its complement sorts the other
way and stands for the negative number. Elements of a tuple are escaped as in FoundationDB's tuple layer: a zero byte
becomes 00 FF, a bare 00 ends the element.
"""

from __future__ import annotations

from math import frexp, inf, isinf, isnan
from typing import Any

from rack.codec.failure import RefusedError

NONE, NEG_INF, NEGATIVE, ZERO, POSITIVE, POS_INF, BYTES, STR, TUPLE = range(1, 10)
END = 0  # of a tuple; less than every tag, so that a shorter tuple sorts first

_BIAS = 1100  # above the exponent of the smallest float, 2**-1074
# A key of a few bytes may stand for an int of any size, all of whose last bits are zeros: so many it may have.
_MOST_BITS = 1 << 30
_FEW = 32  # digits, which are quickest one by one
_COMPLEMENT = bytes(255 - i for i in range(256))


def dumps(key: Any) -> bytes:
    """Encode a key.

    :raises TypeError: an object that is not exactly of one of these types.
    :raises ValueError: a NaN, which has no place in the order.
    """
    kind = type(key)
    if kind is str:
        return b"\x08" + key.encode("utf-8", "surrogatepass")  # type: ignore[no-any-return]
    if kind is bytes:
        return b"\x07" + key  # type: ignore[no-any-return]
    return _encode(key)


def loads(data: bytes) -> Any:
    tag = data[0]
    if tag == STR:
        return data[1:].decode("utf-8", "surrogatepass")
    if tag == BYTES:
        return data[1:]
    return _decode(data, 0)[0]


def tuple_range(data: bytes) -> tuple[bytes, bytes]:
    """Return the range that the codes of all tuples are in that begin with the elements of the one encoded here.

    Behind these elements comes the tag of another, or the end, but never FF, which would escape a zero byte.
    """
    return data[:-1], data[:-1] + b"\xff"


def _encode(key: Any) -> bytes:
    """Encode an element: a code that tells where it ends."""
    kind = type(key)
    if key is None:
        return b"\x01"
    if kind is int or kind is float or kind is bool:
        return _encode_number(key)
    if kind is str:
        return b"\x08" + key.encode("utf-8", "surrogatepass").replace(b"\0", b"\0\xff") + b"\0"  # type: ignore[no-any-return]
    if kind is bytes:
        return b"\x07" + key.replace(b"\0", b"\0\xff") + b"\0"  # type: ignore[no-any-return]
    if kind is tuple:
        return b"\x09" + b"".join(map(_encode, key)) + b"\0"
    raise RefusedError("which has no place in the order of keys")


def _encode_number(number: float) -> bytes:
    if isinstance(number, float):
        if isnan(number):
            raise ValueError("NaN has no place in the order of keys")
        if isinf(number):
            return b"\x06" if number > 0 else b"\x02"
        if not number.is_integer():
            fraction, exponent = frexp(abs(number))
            return _sign(number < 0, exponent, int(fraction * 2**53))
    whole = int(number)
    if not whole:
        return b"\x04"
    return _sign(whole < 0, whole.bit_length(), abs(whole))


def _sign(negative: bool, exponent: int, mantissa: int) -> bytes:
    if exponent > _MOST_BITS:
        raise OverflowError("int too large for the order of keys")
    biased = exponent + _BIAS
    size = (biased.bit_length() + 7) // 8
    mantissa >>= (mantissa & -mantissa).bit_length() - 1  # drop the trailing zeros: they carry nothing
    bits = mantissa.bit_length()
    digits = -(-bits // 7)
    mantissa <<= digits * 7 - bits
    code = bytearray((size, *biased.to_bytes(size, "big")))
    if digits <= _FEW:
        code += bytes((mantissa >> shift & 0x7F) << 1 | 1 for shift in range((digits - 1) * 7, -1, -7))
    else:
        code += _digits(mantissa, digits)
    code[-1] &= 0xFE
    return b"\x03" + code.translate(_COMPLEMENT) if negative else b"\x05" + bytes(code)


def _digits(mantissa: int, count: int) -> bytes:
    """Return ``count`` digits of seven bits, a byte each. Eight are made at a time: what a shift takes is O(bits)."""
    left = -count % 8
    data = (mantissa << left * 7).to_bytes((count + left) // 8 * 7, "big")
    code = bytearray()
    for at in range(0, len(data), 7):
        part = int.from_bytes(data[at : at + 7], "big")
        code += bytes((part >> shift & 0x7F) << 1 | 1 for shift in range(49, -1, -7))
    return bytes(code[:count])


def _number(digits: bytes) -> int:
    """Return the number of which these are the digits."""
    left = -len(digits) % 8
    digits += bytes(left)
    data = bytearray()
    for at in range(0, len(digits), 8):
        part = 0
        for digit in digits[at : at + 8]:
            part = part << 7 | digit >> 1
        data += part.to_bytes(7, "big")
    return int.from_bytes(data, "big") >> left * 7


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    """Decode the element at ``at``; return it and the position behind it."""
    tag = data[at]
    at += 1
    if tag == NONE:
        return None, at
    if tag == ZERO:
        return 0, at
    if tag in (POSITIVE, NEGATIVE):
        return _decode_number(data, at, tag == NEGATIVE)
    if tag in (NEG_INF, POS_INF):
        return (inf if tag == POS_INF else -inf), at
    if tag in (STR, BYTES):
        end = at
        while True:
            end = data.index(b"\0", end)
            if data[end + 1 : end + 2] != b"\xff":
                break
            end += 2
        raw = data[at:end].replace(b"\0\xff", b"\0")
        return (raw.decode("utf-8", "surrogatepass") if tag == STR else raw), end + 1
    if tag == TUPLE:
        items = []
        while data[at] != END:
            item, at = _decode(data, at)
            items.append(item)
        return tuple(items), at + 1
    raise ValueError(f"no such tag in an ordered key: {tag}")


def _decode_number(data: bytes, at: int, negative: bool) -> tuple[float, int]:
    flip = 0xFF if negative else 0
    size = data[at] ^ flip
    at += 1
    exponent = int.from_bytes(bytes(byte ^ flip for byte in data[at : at + size]), "big") - _BIAS
    if exponent > _MOST_BITS:
        raise ValueError(f"no number has {exponent} bits")
    at += size
    mantissa = bits = 0
    more = 1
    while more:
        byte = data[at] ^ flip
        at += 1
        mantissa = mantissa << 7 | byte >> 1
        bits += 7
        more = byte & 1
        if bits == 7 * _FEW and more:
            end = at
            while (data[end] ^ flip) & 1:
                end += 1
            code = data[at : end + 1]
            mantissa = mantissa << 7 * len(code) | _number(code.translate(_COMPLEMENT) if negative else code)
            bits += 7 * len(code)
            at = end + 1
            break
    # mantissa / 2**bits is f: the value is mantissa * 2**(exponent - bits)
    shift = exponent - bits
    low = (mantissa & -mantissa).bit_length() - 1
    if shift + low >= 0:
        value: float = mantissa << shift if shift >= 0 else mantissa >> -shift
    else:
        value = (mantissa >> low) * 2.0 ** (shift + low)
    return (-value if negative else value), at
