"""Who holds a shard's lock: it is read off the thread's stack, not remembered.

An exception may come between any two instructions, also in the middle of what takes and gives back a lock: behind the
last instruction of a ``with`` block there is a moment in which its end has not begun. So whatever holds a shard's lock
is an *operation*, marked as such, and ends in :func:`settle` when an exception leaves it: that gives back what no
operation on the stack has any more. Nothing is to be undone that could have been noted wrongly, or not yet.

A signal handler, a finalizer or a serializer may use the shard in the middle of an operation of the same thread. The
stack tells that too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from functools import wraps
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

from rack.errors import ReentrantWriteError
from rack.system.imports import importing

Function = TypeVar("Function", bound=Callable[..., Any])

_operations: set[CodeType] = set()
_by_hand: set[CodeType] = set()
#: Operations in which the shard is being changed, and nobody else of the same thread can change it.
_changes: set[CodeType] = set()
_resizes: set[CodeType] = set()


class Holder(Protocol):
    _lock: Any
    _busy: bool  # whether an operation has the lock; may be wrong for a moment, and after an exception
    _held: Any  # what hold() has taken, if anything: then the lock is held by no operation on the stack
    _at_fork: bool  # so it is between the hooks of a fork

    @property
    def path(self) -> str: ...


def by_hand(function: Function) -> Function:
    """Mark an operation that takes the lock by hand, and leaves it all to another one when it does not have it."""
    _by_hand.add(function.__code__)
    return operation(function)


def operation(function: Function) -> Function:
    """Mark a method that takes the shard's lock, and settles it when an exception leaves it."""
    _operations.add(function.__code__)
    return function


def change(function: Function) -> Function:
    """Mark an operation that changes the shard."""
    _changes.add(function.__code__)
    return operation(function)


def resizing(function: Function) -> Function:
    """Mark a method in which an operation, a read too, has the shard's file resized."""
    _changes.add(function.__code__)
    _resizes.add(function.__code__)
    return function


def exclusive(method: Function) -> Function:
    """Have a method run with the shard's lock held."""

    @wraps(method)
    def within(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._lock:
                return method(self, *args, **kwargs)
        except BaseException:
            settle(self)
            raise

    return operation(within)  # type: ignore[return-value]


def settle(shard: Holder) -> None:
    """Give back the lock if this thread has it and no operation that called the present one has.

    Called where an exception leaves an operation.
    """
    lock = shard._lock
    if lock._is_owned() and not (shard._held or shard._at_fork) and not _find(shard, _operations, sys._getframe(2)):
        shard._busy = False
        while lock._is_owned():
            lock.release()


def is_inside(shard: Holder) -> bool:
    """Return whether an operation on the shard was begun in the middle of another one of this thread.

    Called by an operation that finds the lock taken by its own thread. If nothing on the stack has it, the lock was
    left behind, and is put right: it is held once.
    """
    if shard._held or shard._at_fork or _find(shard, _operations, sys._getframe(2)):
        return True
    lock = shard._lock
    try:
        while lock._is_owned():
            lock.release()
        lock.acquire()
        return False
    except BaseException:
        if not lock._is_owned():
            lock.acquire()  # the caller is to give it back
        raise


def refuse_inside(shard: Holder) -> None:
    """Raise ReentrantWriteError if this thread is in the middle of an operation on the shard.

    What was left behind is given back: afterwards this thread does not have the lock.
    """
    lock = shard._lock
    if lock._is_owned():
        if shard._held or shard._at_fork or _find(shard, _operations, sys._getframe(2)):
            raise reentrant(shard.path)
        while lock._is_owned():
            lock.release()


def refuse_inside_change(shard: Holder) -> None:
    """Raise ReentrantWriteError if this thread is in the middle of a change of the shard."""
    if _find(shard, _changes, sys._getframe(2)):
        raise reentrant(shard.path)


def refuse_inside_resize(shard: Holder) -> None:
    """Raise ReentrantWriteError if this thread is in the middle of a resize of the shard's file."""
    if _find(shard, _resizes, sys._getframe(2)):
        raise reentrant(shard.path)


def reentrant(path: str, what: str = "another operation on the same shard") -> ReentrantWriteError:
    return ReentrantWriteError(
        f"{path}: used {_user()} while the same thread is in the middle of {what}, which has to be over first: note"
        " what is to be done, and do it when that operation has returned"
    )


def is_under_way(codes: Container[CodeType], name: str, of_interest: Callable[[Any], bool]) -> bool:
    """Return whether one of the functions is on this thread's stack, with such a value of its variable ``name``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in codes and of_interest(frame.f_locals.get(name)):
            return True
        frame = frame.f_back
    return False


def _find(shard: Holder, codes: Container[CodeType], frame: FrameType | None) -> bool:
    """Return whether one of the operations is on the stack, from that which called the present one on."""
    if frame is not None and frame.f_code in _by_hand:
        frame = frame.f_back  # which has left it to the present one
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is shard:
            return True
        frame = frame.f_back
    return False


def _user() -> str:
    """Say who uses the shard in the middle of an operation."""
    with importing():
        import signal  # hardly ever needed

    handlers = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        handler = getattr(handler, "func", handler)  # of a functools.partial
        handlers.add(getattr(getattr(handler, "__func__", handler), "__code__", None))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in handlers:
            return "by a signal handler that came"
        if frame.f_code.co_name == "__del__":
            return "by a finalizer (__del__) that came"
        frame = frame.f_back
    return "by a signal handler or finalizer that came, or by a serializer that uses the store,"
