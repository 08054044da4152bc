"""A bar that shows how many of how many entries, or other things, are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rack.cli.progress import REFRESH


@contextmanager
def entry_bar(disable: bool, what: str = "entries") -> Iterator[Callable[[float, int], None]]:
    """Show a bar on standard error while the block runs; gives the function that sets (how many done, of how many)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=disable,
        transient=True,
        auto_refresh=False,  # no thread: the command may fork
    )
    drawn = 0.0

    def show(done: float, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now >= drawn + REFRESH or done == total:
            drawn = now
            bar.update(task, completed=done, total=total, refresh=True)

    with bar:
        task = bar.add_task("")
        yield show
