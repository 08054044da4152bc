"""The lock that is held around opening, closing and forking in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, TypeVar

from rack.shard.holding import exclusive

Function = TypeVar("Function", bound=Callable[..., Any])


class _Guard:
    """Has one thread at a time open, close or fork."""

    _busy = False
    _held = None
    _at_fork = False  # the registry sees to that
    path = ""

    def __init__(self) -> None:
        self._lock = RLock()

    @exclusive
    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs)


guard_lock = _Guard()


def guarded(function: Function) -> Function:
    """Have a function run with the registry's lock held. It is not held across a fork."""

    @wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        return guard_lock.call(function, args, kwargs)

    return within  # type: ignore[return-value]
