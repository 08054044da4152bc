"""Whether a descriptor can be read from or written to; of any number, where ``select`` takes none from 1,024 on."""

from __future__ import annotations

import select


def is_readable(descriptor: int, seconds: float) -> bool:
    """Return whether there is something to read, or the end, within so many seconds."""
    return _is_ready(descriptor, select.POLLIN, seconds)


def wait_writable(descriptor: int) -> None:
    """Wait until something can be written, or never will be."""
    _is_ready(descriptor, select.POLLOUT, None)


def _is_ready(descriptor: int, event: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
