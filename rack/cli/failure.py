"""The one way in which a command says what went wrong: one line on standard error, in the words of who called it."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Self

import click

from rack.cli.signals import Stopped
from rack.errors import RackError, told

#: Absolute paths, and how the user has written them.
_given: dict[str, str] = {}


def running() -> str:
    """The command that runs, as it is called: "rack dedup"."""
    context = click.get_current_context(silent=True)
    if context is None:
        return "rack"
    return f"{context.command_path} {context.invoked_subcommand or ''}".rstrip()


def tell(message: str, command: str | None = None) -> None:
    """Print one line on standard error, in the name of the command. That nobody reads it is no reason to end."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"{command or running()}: {' '.join(as_given(message).split())}", file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number of things for people: "1 entry", "2,345 entries"."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun}"


def remember(name: str) -> None:
    """Take down how the user has written a path."""
    directory = os.path.dirname(name)
    for written in (name, directory):
        if written:
            _given[os.path.abspath(written)] = written


def forget() -> None:
    """Forget all paths: another command begins."""
    _given.clear()


def as_given(text: str) -> str:
    """Return a text for the user, in which the paths that he has written are as he has written them."""
    if not _given:
        return text
    paths = "|".join(re.escape(path) for path in sorted(_given, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.-])({paths})(?![^\s/'\"`.,:;)-])", lambda found: _given[found[1]], text)


class Failure(click.ClickException):
    """An error that ends the command: one line on standard error, and exit code 1, or 2 where 1 is an answer."""

    exit_code: int  # type: ignore[misc]

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.command = running()
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        tell(self.message, self.command)

    @classmethod
    def of(cls, error: Exception, exit_code: int) -> Self:
        """The failure that tells ``error``. A pipe closed at its other end is no failure: that raises Stopped."""
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise Stopped(signal.SIGPIPE) from error
        return cls(told(error), exit_code)


@contextmanager
def failing(exit_code: int) -> Iterator[None]:
    """In this block, errors that are to be expected become Failure, with that exit code."""
    try:
        yield
    except Failure as failure:
        failure.exit_code = max(failure.exit_code, exit_code)
        raise
    except (RackError, OSError) as error:
        raise Failure.of(error, exit_code) from error
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except Exception:
        if exit_code == 1:
            raise
        traceback.print_exc()
        raise click.exceptions.Exit(exit_code) from None


class Command(click.Command):
    """A command whose expected errors are exit code 1."""

    trouble = 1

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with failing(self.trouble):  # --help writes, too
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with failing(self.trouble):
            return super().invoke(ctx)


class Verdict(Command):
    """A command whose exit code 1 is an answer: its errors are 2."""

    trouble = 2
