"""The code of ints in the order of keys, as its description says, a bit at a time."""

from __future__ import annotations


def encode(number: int) -> bytes:
    """Return the code of an int."""
    if not number:
        return b"\x04"
    bits = bin(abs(number))[2:]
    biased = len(bits) + 1100
    size = (biased.bit_length() + 7) // 8
    mantissa = bits.rstrip("0")
    digits = [mantissa[at : at + 7].ljust(7, "0") for at in range(0, len(mantissa), 7)]
    code = bytes([size]) + biased.to_bytes(size, "big")
    code += bytes(int(digit + ("0" if at == len(digits) - 1 else "1"), 2) for at, digit in enumerate(digits))
    return b"\x03" + bytes(255 - byte for byte in code) if number < 0 else b"\x05" + code
