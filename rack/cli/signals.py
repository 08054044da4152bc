"""Ends that come from outside: Ctrl-C, SIGTERM, a hang-up, a reader that went away.

Python raises KeyboardInterrupt between any two instructions. A command that has committed lines and not yet written
them must not end there, so the signals are taken by :class:`Guard`, which waits for the end of such a stretch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Self

#: The signals that ask a command to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: How long a held signal may be kept waiting (a reader of the output that has stopped reading, say), in seconds.
GRACE = 4.0


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


class Guard:
    """While entered, a signal of :data:`ENDING` raises :class:`Stopped`; inside :meth:`held`, only at its end.

    A second signal, or :data:`GRACE` seconds after the first one, does not wait for that end. Signals that were
    ignored from the start (``nohup``, a background job) stay ignored. For the main thread only.

    A worker is ``patient``: a second signal is the same one, once from the terminal and once from its parent.
    """

    def __init__(self) -> None:
        self.patient = False
        self._holding = False
        self._signum: int | None = None  # the first one that came

    def __enter__(self) -> Self:
        for signum in ENDING:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._handle)
        signal.signal(signal.SIGALRM, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum in (*ENDING, signal.SIGALRM):
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGALRM:
            if self._holding and self._signum is not None:
                raise Stopped(self._signum)
        elif self._signum is None:
            self._signum = signum
            if not self._holding:
                raise Stopped(signum)
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        elif not self.patient:
            raise Stopped(self._signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The body is finished before a signal ends the command."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._signum is not None:
            raise Stopped(self._signum)


#: The one guard of the process: ``rack.cli.app.run`` enters it for every command.
guard = Guard()
