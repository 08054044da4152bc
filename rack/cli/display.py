"""What a running command shows of how far it is: a bar on a terminal, or a line every so many seconds."""

from __future__ import annotations

import functools
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import click

from rack.cli.failure import counted, tell
from rack.cli.signals import Stopped, guard

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

#: The bar is drawn at most this often, in seconds. No thread draws it: the command is to fork without threads.
REFRESH = 0.1

#: A command that was running for so long, in seconds, says how far it came when it is ended by Ctrl-C.
LONG = 1.0


@dataclass(frozen=True)
class Wish:
    """What the user wants to see. ``every``: a line of progress every so many seconds, in place of a bar."""

    quiet: bool = False
    every: float | None = None


def with_wish(quiet_help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options --quiet and --progress, and hand it the Wish that they make."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("-q", "--quiet", is_flag=True, help=quiet_help)
        @click.option(
            "--progress",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Write a line about the progress to standard error every SECONDS, and show no bar.",
        )
        @functools.wraps(command)
        def decorated(*args: Any, quiet: bool, progress: float | None, **options: Any) -> None:
            command(*args, wish=Wish(quiet, progress), **options)

        return decorated

    return decorate


class Display(ABC):
    """Shows how far a command is while it is entered.

    ``bar``: whether a bar can be shown on a terminal. ``left``: what is left when the command is interrupted.
    """

    def __init__(self, wish: Wish, bar: bool = True, left: str = "") -> None:
        self._wish = wish
        self._left = left
        self._began = time.monotonic()
        self._next = self._began + (wish.every or 0)
        wants_bar = bar and not wish.quiet and wish.every is None and sys.stderr is not None and sys.stderr.isatty()
        self._bar = _bar(self._columns()) if wants_bar else None
        self._task = self._bar.add_task("", total=None, counts="") if self._bar is not None else None
        self._is_shown = False

    @abstractmethod
    def _columns(self) -> list[ProgressColumn]:
        """Return what the bar consists of; it may use ``counts``."""

    @abstractmethod
    def _state(self) -> tuple[float, float | None, str]:
        """Return how much is done, of how much (None: not known), and counts in words."""

    @abstractmethod
    def so_far(self) -> str:
        """Return, in words, how far it has come."""

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-6)

    def tick(self, at_once: bool = False) -> None:
        """Show how far it is, if it is time to."""
        now = time.monotonic()
        if now < self._next and not (at_once and self._bar is not None):
            return
        if self._wish.every is not None:
            self._next = now + self._wish.every
            tell(f"{self.so_far()} after {self.seconds:,.0f} s")
        elif self._bar is not None and self._task is not None:
            self._next = now + REFRESH
            done, total, counts = self._state()
            with guard.held(), guard.in_one_piece():  # else the cursor may stay hidden
                self._bar.update(self._task, completed=done, total=total, counts=counts)
                if not self._is_shown:
                    self._is_shown = True
                    self._bar.start()
                self._bar.refresh()

    def say(self, message: str) -> None:
        """Print a line on standard error, above the bar."""
        self.hide()
        tell(message)

    def hide(self) -> None:
        """Take the bar away until the next tick."""
        if self._is_shown and self._bar is not None:
            self._is_shown = False
            self._bar.stop()

    def __enter__(self) -> Self:
        guard.shown = self
        guard.is_making = bool(self._left)
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        guard.shown = None
        self.hide()
        told = (signal.SIGINT, signal.SIGTERM)
        if isinstance(exc, Stopped) and exc.signum in told and self.seconds >= LONG and not self._wish.quiet:
            tell(f"interrupted: {self.so_far()}" + (f"; {self._left}" if self._left else ""))


class Counter(Display):
    """Counts entries, or other things, that are dealt with."""

    def __init__(self, wish: Wish, noun: str, participle: str, left: str = "", bar: bool = True) -> None:
        self._noun = noun
        self._participle = participle
        self._done: float = 0
        self._total = 0
        super().__init__(wish, bar, left)

    @property
    def done(self) -> int:
        """How much is done."""
        return int(self._done)

    def __call__(self, done: float, total: int) -> None:
        """So much is done, of so much."""
        self._done, self._total = done, total
        self.tick(at_once=done == total)

    def _columns(self) -> list[ProgressColumn]:
        from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

        return [
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn(counted(0, self._noun).partition(" ")[2]),
            TimeRemainingColumn(),
        ]

    def _state(self) -> tuple[float, float | None, str]:
        return self._done, self._total, ""

    def so_far(self) -> str:
        if not self._total:  # it has not begun: it waits for others, or counts first
            return f"{counted(0, self._noun)} {self._participle}"
        return f"{int(self._done):,} of {counted(self._total, self._noun)} {self._participle}"


def _bar(columns: list[ProgressColumn]) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(file=sys.stderr), auto_refresh=False, transient=True)
