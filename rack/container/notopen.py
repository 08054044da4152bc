"""What a container that is not open has in place of a store, a route and codecs."""

from __future__ import annotations

from typing import NoReturn

from rack.errors import NotOpenError


class NotOpen:
    """Stands for all that an open container has, and raises."""

    def __init__(self, reason: Exception | None = None) -> None:
        self._reason = reason

    def __call__(self, *args: object) -> NoReturn:
        if self._reason is not None:
            raise self._reason.with_traceback(None)
        raise NotOpenError("the container is not open; use it in a `with` block, or between open() and close()")

    def __getattr__(self, name: str) -> NoReturn:
        self()


NOT_OPEN = NotOpen()
