"""Canonical forms of the types of Python and its standard library, as keys: a tag, and parts that are keys themselves.

A form with the tag "" has one part, and is that key: ``Decimal(1)`` is 1. A subclass has its base's form.
No module is imported for a key that is to be dumped: as long as it is not loaded, there are no objects of its types.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import isfinite
from typing import Any

from rack.codec.digest import Digest
from rack.codec.failure import RefusedError
from rack.system.imports import importing

#: A tag, and the parts.
Form = tuple[Any, ...]

_MAX_DIGITS = 10_000  # of a Decimal: 1e1000000000 would become an int of as many

# Numbers


def of_ratio(numerator: int, denominator: int) -> Form:
    """Return the form of a fraction: an int or a float if one is equal to it."""
    if denominator == 1:
        return "", numerator
    try:
        near = numerator / denominator
    except OverflowError:
        near = float("inf")
    if isfinite(near) and near.as_integer_ratio() == (numerator, denominator):
        return "", near
    return "fraction", numerator, denominator


def _of_decimal(number: Any) -> Form:
    if not number.is_finite():
        return "", float("nan") if number.is_nan() else float(number)
    _, digits, exponent = number.as_tuple()
    if not any(digits):  # whatever the exponent is
        return "", 0
    if len(digits) + abs(exponent) > _MAX_DIGITS:
        raise RefusedError(f"which is too large or too fine: more than {_MAX_DIGITS:,} digits")
    return of_ratio(*number.as_integer_ratio())


def of_number(number: Any) -> Form | None:
    """Return the form of another kind of number, which is to be compared with it; None if it is none."""
    numbers = sys.modules.get("numbers")
    if numbers is None or not isinstance(number, numbers.Number):
        return None
    if isinstance(number, numbers.Integral):
        return "", int(number)
    if isinstance(number, numbers.Rational):
        return of_ratio(int(number.numerator), int(number.denominator))
    if isinstance(number, numbers.Real):
        return "", float(number)
    return ("", complex(number)) if isinstance(number, numbers.Complex) else None


# Dates and times, as whole microseconds


def _microseconds(delta: Any) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds  # type: ignore[no-any-return]


def _of_datetime(moment: Any) -> Form:
    """With a time zone: the instant, as datetimes that are the same instant in two zones are equal.

    In the hour that a clock shows twice, or skips, Python's ``==`` is no equality: times of one zone are equal that are
    an hour apart, and a time of another zone is equal to none of them.
    """
    with importing():
        import datetime

    naive = datetime.datetime(
        *(moment.year, moment.month, moment.day),
        *(moment.hour, moment.minute, moment.second, moment.microsecond),
    )
    since = _microseconds(naive - datetime.datetime.min)
    offset = moment.utcoffset()
    if offset is None:
        return "datetime", since
    if moment.replace(fold=1 - moment.fold).utcoffset() != offset:
        raise RefusedError(
            "whose time the clocks of its zone show twice or never, so that == means little:"
            " use .astimezone(datetime.timezone.utc)"
        )
    return "instant", since - _microseconds(offset)


def _load_datetime(since: int) -> Any:
    with importing():
        from datetime import datetime, timedelta

    return datetime.min + timedelta(microseconds=since)


def _load_instant(since: int) -> Any:
    with importing():
        from datetime import UTC, datetime, timedelta

    return datetime.min.replace(tzinfo=UTC) + timedelta(microseconds=since)


def _of_time(time: Any) -> Form:
    """With an offset: the time less the offset, in whole seconds, is what is compared. It may be of another day."""
    seconds = (time.hour * 60 + time.minute) * 60 + time.second
    offset = time.utcoffset()
    if offset is None:
        return "time", seconds, time.microsecond
    return "clock", seconds - (offset.days * 86_400 + offset.seconds), time.microsecond


def _load_time(seconds: int, microsecond: int) -> Any:
    with importing():
        from datetime import time

    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, microsecond)


def _load_clock(seconds: int, microsecond: int) -> Any:
    with importing():
        from datetime import UTC, timedelta, timezone

    within = min(max(seconds, 0), 86_399)
    offset = timezone(timedelta(seconds=within - seconds)) if within != seconds else UTC
    return _load_time(within, microsecond).replace(tzinfo=offset)


def _load_date(ordinal: int) -> Any:
    with importing():
        from datetime import date

    return date.fromordinal(ordinal)


def _load_timedelta(microseconds: int) -> Any:
    with importing():
        from datetime import timedelta

    return timedelta(microseconds=microseconds)


# Others


def _of_range(numbers: Any) -> Form:
    """Ranges are equal if their items are."""
    if not numbers:
        return "range", 0, 0, 1
    start, last = numbers[0], numbers[-1]  # there may be more than len() tells
    return ("range", start, start + 1, 1) if start == last else ("range", start, last + numbers.step, numbers.step)


def _load_fraction(numerator: int, denominator: int) -> Any:
    with importing():
        from fractions import Fraction

    return Fraction(numerator, denominator)


def _load_uuid(number: int) -> Any:
    with importing():
        from uuid import UUID

    return UUID(int=number)


def _load_path(path: str) -> Any:
    with importing():
        from pathlib import Path

    return Path(path)


def _load_windows_path(path: str) -> Any:
    with importing():
        from pathlib import PureWindowsPath

    return PureWindowsPath(path)


def _load_ip(function: str) -> Callable[[str], Any]:
    def load(text: str) -> Any:
        with importing():
            import ipaddress

        return getattr(ipaddress, function)(text)

    return load


_OF: dict[tuple[str, str], Callable[[Any], Form]] = {
    ("rack", "Digest"): lambda key: ("digest", bytes(key)),  # as a part of a key
    # not str(key) and so on, which a subclass may have changed
    ("builtins", "str"): lambda key: ("", str.__str__(key)),
    ("builtins", "bytes"): lambda key: ("", b"".join((key,))),
    ("builtins", "int"): lambda key: ("", int.__int__(key)),
    ("builtins", "float"): lambda key: ("", float.__float__(key)),
    ("builtins", "complex"): lambda key: ("", complex.__add__(key, 0)),
    ("builtins", "tuple"): lambda key: ("", tuple(tuple.__iter__(key))),
    ("builtins", "frozenset"): lambda key: ("", frozenset(frozenset.__iter__(key))),
    ("builtins", "range"): _of_range,
    ("decimal", "Decimal"): _of_decimal,
    ("fractions", "Fraction"): lambda key: of_ratio(key.numerator, key.denominator),
    ("datetime", "date"): lambda key: ("date", key.toordinal()),
    ("datetime", "datetime"): _of_datetime,
    ("datetime", "time"): _of_time,
    ("datetime", "timedelta"): lambda key: ("timedelta", _microseconds(key)),
    ("uuid", "UUID"): lambda key: ("uuid", key.int),
    ("pathlib", "PurePosixPath"): lambda key: ("path", str(key)),
    ("pathlib", "PureWindowsPath"): lambda key: ("windows path", str(key).lower()),
    ("ipaddress", "IPv4Address"): lambda key: ("ip", str(key)),
    ("ipaddress", "IPv6Address"): lambda key: ("ip", str(key)),
    ("ipaddress", "IPv4Network"): lambda key: ("ip network", str(key)),
    ("ipaddress", "IPv6Network"): lambda key: ("ip network", str(key)),
    ("ipaddress", "IPv4Interface"): lambda key: ("ip interface", key.with_prefixlen),
    ("ipaddress", "IPv6Interface"): lambda key: ("ip interface", key.with_prefixlen),
}

#: What makes the object of the parts of a form, by its tag.
LOAD: dict[str, Callable[..., Any]] = {
    "digest": Digest,
    "fraction": _load_fraction,
    "date": _load_date,
    "datetime": _load_datetime,
    "instant": _load_instant,
    "time": _load_time,
    "clock": _load_clock,
    "timedelta": _load_timedelta,
    "range": range,
    "uuid": _load_uuid,
    "path": _load_path,
    "windows path": _load_windows_path,
    "ip": _load_ip("ip_address"),
    "ip network": _load_ip("ip_network"),
    "ip interface": _load_ip("ip_interface"),
}


def nearest(kind: type) -> tuple[type, Callable[[Any], Form]] | None:
    """Return the nearest base that has a form here, and what makes it."""
    for base in kind.__mro__:
        of = _OF.get((base.__module__.partition(".")[0], base.__name__))
        if of is not None:
            return base, of
    return None
