"""A plot of how fast processes are together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rack.cli.failure import Failure


def check_plotting() -> None:
    """Raise Failure if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Failure('--plot needs matplotlib: pip install "rack[plot]"') from error


def plot(rates: Sequence[tuple[int, float]], file: Path) -> None:
    """Draw lines a second over the number of processes; the suffix of the file says as what (png, svg, pdf).

    :raises Failure: matplotlib does not know the suffix, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    workers, lines = zip(*rates, strict=True)
    axes.plot(workers, lines, marker="o", label="measured")
    axes.plot(
        workers, [lines[0] * number for number in workers], linestyle=":", color="gray", label="if each added one"
    )
    axes.set_xlabel("processes")
    axes.set_ylabel("lines a second")
    axes.set_xticks(workers)
    axes.set_ylim(bottom=0)
    axes.legend()
    try:
        figure.savefig(file)
    except (ValueError, OSError) as error:
        raise Failure(f"cannot draw {file}: {error}") from error
