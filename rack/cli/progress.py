"""Counts of a command that reads lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rack.care.words import size
from rack.cli.display import Display, Wish
from rack.cli.failure import counted

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class Reading(Display):
    """Counts bytes and lines. ``total``: how many bytes there are to read, or None if that is not known."""

    def __init__(self, wish: Wish, bar: bool = True, total: int | None = None, left: str = "") -> None:
        self.bytes = 0
        self.lines = 0
        self._total = total or None
        super().__init__(wish, bar, left)

    def _columns(self) -> list[ProgressColumn]:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

        return [BarColumn(), DownloadColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn()]

    def _state(self) -> tuple[float, float | None, str]:
        rate = f"{self.lines / self.seconds:,.0f}/s"
        return self.bytes, self._total, f"{counted(self.lines, 'line')}, {rate}"

    def so_far(self) -> str:
        of_all = f" of {size(self._total)}" if self._total else ""
        return f"{self._counts()}; {size(self.bytes)}{of_all}"

    def _counts(self) -> str:
        return f"{counted(self.lines, 'line')} read"


class Meter(Reading):
    """Counts new lines, too."""

    def __init__(self, wish: Wish, bar: bool = True, total: int | None = None) -> None:
        self.new = 0
        super().__init__(wish, bar, total)

    def add(self, consumed: int, lines: int, new: int) -> None:
        self.bytes += consumed
        self.lines += lines
        self.new += new
        self.tick()

    def _state(self) -> tuple[float, float | None, str]:
        done, total, counts = super()._state()
        return done, total, f"{counts}, {self.new:,} new"

    def summary(self) -> str:
        return (
            f"{self._counts()}; {size(self.bytes)} in {self.seconds:.2f} s"
            f" ({counted(round(self.lines / self.seconds), 'line')}/s)"
        )

    def _counts(self) -> str:
        return f"{super()._counts()}, {self.new:,} new, {self.lines - self.new:,} seen before"
