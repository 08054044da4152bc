"""What a command shows in place on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from rack.cli.signals import guard

if TYPE_CHECKING:
    from rich.console import RenderableType


class Screen:
    """What is shown in place on the terminal that standard output is."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._live: Any = None

    def show(self, picture: RenderableType) -> None:
        from rich.console import Console
        from rich.live import Live

        with guard.held(), guard.in_one_piece():  # else the cursor may stay hidden
            if self._live is None:
                self._live = Live(console=Console(highlight=False), auto_refresh=False)
                self._live.start()
            self._live.update(picture, refresh=True)

    def hide(self) -> None:
        """Leave what is shown as it is, until something is shown again."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __enter__(self) -> Self:
        guard.shown = self
        return self

    def __exit__(self, *exc_info: object) -> None:
        guard.shown = None
        self.hide()
