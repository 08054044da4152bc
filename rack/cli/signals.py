"""Signals: Ctrl-C, SIGTERM and a hang-up end a command, Ctrl-Z stops it, as does a reader that went away.

Python raises KeyboardInterrupt between any two instructions. A command that has committed lines and not yet written
them must not end there, and one that others wait for must not be stopped there. So the signals are taken by
:class:`Guard`, which waits for the end of such a stretch.

A handler of Python's runs between two instructions of the main thread. If that is in a function of C for long, which
may be for ever (LMDB waits for some of its locks there), a thread sees to the signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, NoReturn, Protocol, Self

from rack.cli.ready import is_readable

#: The signals that ask a command to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: How long a held signal may be kept waiting (a reader of the output that has stopped reading, say), in seconds.
GRACE = 4.0

#: After how long Stopped is raised again if it has come to nothing, in seconds.
_LOST = 0.5

# How long Ctrl-Z waits, in seconds: while the command itself waits for others, and at most, while others may wait for
# it. And how often it tries.
_PATIENCE = 1.0
_LONGEST = 30.0
_AGAIN = 0.002
_REPEATED = 0.05

# How long the main thread may be in C before a signal is seen to without it, in seconds; and if there are files then
# that it should take away first.
_STUCK = 2.0
_STUCK_AT_WORK = 10.0
_WAIT = 0.02  # seconds
_ONE = 0.3  # seconds, within which several signals are one


class Stopped(BaseException):
    """The command is to end as if signal ``signum`` had killed it. Not an error: nothing is printed."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    def die(self) -> NoReturn:
        """End this process by the signal, so that the parent sees what happened."""
        signal.signal(self.signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.signum})
        os.kill(os.getpid(), self.signum)
        os._exit(128 + self.signum)  # not reached, unless the signal is late


class Shown(Protocol):
    """What is on the terminal, and is taken away while the command is stopped."""

    def hide(self) -> None: ...


class Guard:
    """While entered, a signal of :data:`ENDING` raises :class:`Stopped`; inside :meth:`held`, only at its end.

    A second signal, or :data:`GRACE` seconds after the first one, does not wait for that end. Ctrl-Z (SIGTSTP) stops
    the process when no operation on a store is under way in it, and nothing that is :meth:`in_one_piece`. Signals that
    were ignored from the start (``nohup``, a background job) stay ignored. For the main thread only.

    A worker is ``patient``: a second signal is the same one, once from the terminal and once from its parent.
    """

    def __init__(self) -> None:
        self.patient = False
        self.signum: int | None = None  # the first one that came
        self.shown: Shown | None = None
        self.is_making = False  # files, which are taken away if it is not finished
        #: ``rack.store.stillness.still``, once this process may have stores open.
        self.still: Callable[[float], AbstractContextManager[str]] = lambda patience: nullcontext("still")
        self._before: dict[int, Any] = {}
        self._held = 0  # how many blocks that are held it is in
        self._whole = 0
        self._end_by: float | None = None  # when Stopped is to be raised, in any case or again
        self._stop_asked: float | None = None
        self._is_stopping = False
        self._ticks = 0  # how often a handler has run

    def __enter__(self) -> Self:
        # First what the others need, which goes last as well.
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
        self._before[_POKE] = signal.signal(_POKE, self._on_poke)
        handlers = dict.fromkeys(ENDING, self._on_ending) | {signal.SIGTSTP: self._on_stop}
        for signum, handler in handlers.items():
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, handler)
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        self.watch()
        return self

    def watch(self) -> None:
        """Have a thread see to signals when the main thread is in C for long. A fork leaves it behind."""
        _watch(self)

    def __exit__(self, *exc_info: object) -> None:
        _watch(None)
        sys.unraisablehook = self._hook_before
        while self._before:
            signum, handler = self._before.popitem()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    # Ends

    def _on_ending(self, signum: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self.signum is None:
            self.signum = signum
            self._end_by = time.monotonic() + (GRACE if self._held else _LOST)
            self._set_alarm()
            if not self._held:
                raise Stopped(signum)
        elif not self.patient:
            raise Stopped(self.signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The body is finished before a signal ends the command. Then that is how it ends, whatever the body raised."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self.signum is not None and not self._held:
                raise Stopped(self.signum)

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            self._hook_before(unraisable)

    # Stops

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self._stop_asked is None:
            self._stop_asked = time.monotonic()
            self.stop_if_still()

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Other processes may be waiting for the end of the body: it is not stopped there, for a while."""
        self._whole += 1
        try:
            yield
        finally:
            self._whole -= 1

    def stop_if_still(self) -> None:
        """If that has been asked for, stop, or see to it that this is tried again."""
        if self._stop_asked is None or self._is_stopping:
            return
        self._is_stopping = True
        try:
            with self.still(0.05) as found:
                waited = time.monotonic() - self._stop_asked
                if (
                    (found == "still" and not self._whole)
                    or (found != "busy" and waited > _PATIENCE)
                    or waited > _LONGEST
                ):
                    self._stop_asked = None
                    self._stop()
        finally:
            self._is_stopping = False
            self._set_alarm()

    def _stop(self) -> None:
        """Be stopped as if there were no handler, and go on from there."""
        if self.shown is not None:
            self.shown.hide()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            signal.raise_signal(signal.SIGTSTP)  # returns when the process is continued
        finally:
            signal.signal(signal.SIGTSTP, self._on_stop)

    # Later

    def _set_alarm(self) -> None:
        now = time.monotonic()
        due = [now + _AGAIN] if self._stop_asked is not None else []
        if self._end_by is not None:
            due.append(self._end_by)
        # Again and again: one that comes just before a system call does not interrupt that.
        signal.setitimer(signal.ITIMER_REAL, max(min(due) - now, 0.001) if due else 0, _REPEATED)

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self.signum is not None and self._end_by is not None and time.monotonic() >= self._end_by:
            # Python drops an exception that is raised in a finalizer, and in some other places. Then Stopped is raised
            # again; but not while it is on its way.
            self._end_by = time.monotonic() + _LOST
            self._set_alarm()
            if not _is_unwinding():
                raise Stopped(self.signum)
        if self._is_stopping:
            return
        self.stop_if_still()
        self._set_alarm()

    def _on_poke(self, signum: int, frame: FrameType | None) -> None:
        self._ticks += 1

    # In the thread that watches:

    def see_to(self, signum: int, is_asked_again: Callable[[], bool]) -> None:
        """Do what a signal asks for if the main thread does not, or not before it is asked for again."""
        ticks = self._ticks
        signal.pthread_kill(threading.main_thread().ident or 0, _POKE)
        patience = _STUCK_AT_WORK if self.is_making else _STUCK
        for waits in range(round(patience / _WAIT)):  # not by the clock: the process may be stopped meanwhile
            time.sleep(_WAIT)
            if self._ticks != ticks or not self._before:  # it has noticed, or there is no guard any more
                return
            if is_asked_again() and waits > _ONE / _WAIT:
                break
        if signum == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            _die(signum)


# The watching thread. It reads the signals' numbers from a pipe, into which Python's handler in C writes them at once.


def _is_unwinding() -> bool:
    """Whether what runs was called because Stopped was raised: to close and to remove things."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error is not None


#: A signal that does nothing unless there is a handler.
_POKE = signal.SIGURG

_pipe: tuple[int, int] | None = None


def _watch(guard: Guard | None) -> None:
    """Have a thread watch over the signals of ``guard``; None: no longer."""
    global _pipe
    signal.set_wakeup_fd(-1)
    if _pipe is not None:
        os.close(_pipe[1])  # which ends the thread
        _pipe = None
    if guard is not None:
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        threading.Thread(target=_look, args=(_pipe[0], guard), name="rack-signals", daemon=True).start()
        signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)


def _look(fd: int, guard: Guard) -> None:
    def is_asked_again() -> bool:
        return is_readable(fd, 0) and bool({*os.read(fd, 64)} & {*ENDING})

    try:
        while numbers := os.read(fd, 64):
            for signum in {*numbers} & {*ENDING, signal.SIGTSTP}:
                guard.see_to(signum, is_asked_again)
    finally:
        os.close(fd)


def _after_fork_in_child() -> None:
    """The thread is the parent's."""
    global _pipe
    if _pipe is not None:
        signal.set_wakeup_fd(-1)
        for fd in _pipe:
            os.close(fd)
        _pipe = None


os.register_at_fork(after_in_child=_after_fork_in_child)


def _die(signum: int) -> NoReturn:
    """End the process by a signal, in any thread: Python lets only the main thread change what a signal does."""
    try:
        import ctypes

        set_handler = ctypes.pythonapi.PyOS_setsig
        set_handler.restype = ctypes.c_void_p
        set_handler.argtypes = [ctypes.c_int, ctypes.c_void_p]
        set_handler(signum, None)  # SIG_DFL
        os.kill(os.getpid(), signum)
    finally:
        os._exit(128 + signum)


#: The one guard of the process: ``rack.cli.app.run`` enters it for every command.
guard = Guard()
