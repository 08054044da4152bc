"""Standard output: of what a command reports, and shared by processes, whole blocks of lines in one piece."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from rack.cli.failure import Failure, as_given
from rack.cli.ready import wait_writable
from rack.cli.signals import Stopped, guard


def check_open() -> None:
    """Raise Failure if there is no standard output."""
    if sys.stdout is None:
        raise Failure("standard output is closed")


def say(text: str) -> None:
    """Print a line of the command's result, or several.

    :raises Stopped: the reader has closed the pipe.
    :raises Failure: it cannot be written.
    """
    check_open()
    try:
        click.echo(os.fsencode(as_given(text)))  # a path may be no text
    except OSError as error:
        raise _write_failure(error) from error


def _write_failure(error: OSError) -> Failure:
    """The failure that standard output cannot be written. A closed pipe is none: that raises Stopped."""
    if error.errno == errno.EPIPE:
        raise Stopped(signal.SIGPIPE) from error
    return Failure(f"cannot write to standard output: {error.strerror}")


class Output:
    """A file descriptor to which this process and others write blocks.

    A block is longer than what a pipe takes at once (4 KiB), so the writers take turns under a lock: a POSIX record
    lock, which ends with its process however that ends, on the output itself. So it also keeps apart commands that
    know nothing of each other and were given one output, as ``xargs -P4 rack dedup seen > new`` does. An output that
    cannot be locked (a terminal) has an unnamed file locked in its place, for this command's own processes.
    """

    def __init__(self, descriptor: int = 1) -> None:
        check_open()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, 0)
        self._lock = descriptor
        kind = os.fstat(descriptor).st_mode
        try:
            # A device such as /dev/null is one file for everybody on the machine: not ours to lock.
            if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                raise OSError(errno.ENOLCK, "not locked")
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        except BlockingIOError:
            pass  # it is another writer's turn
        except OSError:
            from tempfile import TemporaryFile  # which takes a while to import

            with TemporaryFile() as file:
                self._lock = os.dup(file.fileno())

    def check(self) -> None:
        """Raise Stopped if nobody can read the output any more, as far as that can be known without writing."""
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in self._poll.poll(0)):
            raise Stopped(signal.SIGPIPE)

    def write(self, data: bytes) -> None:
        """Write all of ``data``, in one piece.

        :raises Stopped: the reader has closed the pipe.
        :raises Failure: it cannot be written (no space, say).
        """
        view = memoryview(data)
        try:
            with self._turn():
                while view:
                    try:
                        view = view[os.write(self._descriptor, view) :]
                    except BlockingIOError:  # the descriptor was given to us in non-blocking mode
                        wait_writable(self._descriptor)
        except OSError as error:
            raise _write_failure(error) from error

    def is_file(self, other: os.stat_result) -> bool:
        """Whether ``other`` is the very file that the output goes to."""
        own = os.fstat(self._descriptor)
        return stat.S_ISREG(own.st_mode) and os.path.samestat(own, other)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with guard.in_one_piece():
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)
