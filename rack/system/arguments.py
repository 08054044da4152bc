"""Numbers and names that a caller gives: what is none is refused, in words that name the parameter."""

from __future__ import annotations

from operator import index
from typing import Any


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number that is in its range, of whatever type it is.

    :raises TypeError: it is not a whole number, or it is a bool.
    :raises ValueError: it is out of its range.
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be a whole number") from None
    if isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be a whole number")
    if most is not None and not least <= number <= most:
        raise ValueError(f"{name}={value!r}: must be {least} to {most}")
    if number < least:
        raise ValueError(f"{name}={value!r}: must be at least {least}")
    return number


def duration(name: str, value: Any, positive: bool = False) -> float:
    """Return a number of seconds, of whatever type it is; infinity is one.

    :param positive: 0 is none.
    :raises TypeError: it is not a number.
    :raises ValueError: it is negative, or no number at all (nan).
    """
    try:
        number = float("" if isinstance(value, str | bytes | bytearray) else value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r}: must be a number of seconds") from None
    if not (number > 0 or (number == 0 and not positive)):
        least = "more than 0" if positive else "not negative"
        raise ValueError(f"{name}={value!r}: must be a number of seconds, {least}")
    return number


def text(name: str, value: Any) -> str:
    """Return a string.

    :raises TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: must be a str")
    return value
