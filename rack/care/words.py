"""Sizes and times in words, for people."""

from __future__ import annotations


def size(count: float) -> str:
    """A number of bytes: "1 byte", "2.1 GB"."""
    if count < 1000:
        return f"{count:.0f} byte{'' if int(count) == 1 else 's'}"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} GB"


def duration(seconds: float) -> str:
    """A time span, in its largest unit: "3 h"."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
