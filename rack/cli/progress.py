"""Counts of a running command, and the bar that shows them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from rack.cli.failure import running, tell

if TYPE_CHECKING:
    from rich.progress import Progress

#: The bar is drawn at most this often, in seconds. No thread draws it: the command is to fork without threads.
REFRESH = 0.1


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


class Meter:
    """Counts bytes, lines and new lines. While entered with ``bar=True`` it shows them on standard error.

    ``total`` is how many bytes there are to read, or None if that is not known.
    """

    def __init__(self, bar: bool = False, total: int | None = None) -> None:
        self.bytes = 0
        self.lines = 0
        self.new = 0
        self._began = time.monotonic()
        self._drawn = 0.0
        self._bar = _bar() if bar else None
        self._task = self._bar.add_task("", total=total or None, counts="") if self._bar else None

    def add(self, consumed: int, lines: int, new: int) -> None:
        self.bytes += consumed
        self.lines += lines
        self.new += new
        self.tick()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-6)

    def tick(self) -> None:
        """Draw the bar if it is time to."""
        now = time.monotonic()
        if self._bar is None or self._task is None or now < self._drawn + REFRESH:
            return
        self._drawn = now
        counts = f"{self.lines:,} lines, {self.lines / self.seconds:,.0f}/s, {self.new:,} new"
        self._bar.update(self._task, completed=self.bytes, counts=counts)
        self._bar.refresh()

    def say(self, message: str) -> None:
        """Print a line on standard error, above the bar."""
        if self._bar is None:
            tell(message)
        else:
            text = f"{running()}: {message}"
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def summary(self) -> str:
        return (
            f"{self.lines:,} lines read, {self.new:,} new, {self.lines - self.new:,} seen before;"
            f" {size(self.bytes)} in {self.seconds:.2f} s ({self.lines / self.seconds:,.0f} lines/s)"
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        transient=True,
    )
