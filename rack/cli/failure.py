"""The one way in which a command says what went wrong."""

from __future__ import annotations

import errno
import signal
import sys
from typing import IO, Any, Self

import click

from rack.cli.signals import Stopped


def running() -> str:
    """The command that runs, as it is called: "rack dedup"."""
    context = click.get_current_context(silent=True)
    if context is None:
        return "rack"
    return f"{context.command_path} {context.invoked_subcommand or ''}".rstrip()


def tell(message: str, command: str | None = None) -> None:
    """Print one line on standard error, in the name of the command."""
    print(f"{command or running()}: {' '.join(message.split())}", file=sys.stderr, flush=True)


class Failure(click.ClickException):
    """An error that ends the command: one line on standard error, exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.command = running()

    def show(self, file: IO[Any] | None = None) -> None:
        tell(self.message, self.command)

    @classmethod
    def of(cls, error: Exception) -> Self:
        """The failure that tells ``error``. A pipe closed at its other end is no failure: that raises Stopped."""
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise Stopped(signal.SIGPIPE) from error
        return cls(str(error) or type(error).__name__)
