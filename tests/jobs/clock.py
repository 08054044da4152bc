"""Clocks that a test sets."""

from __future__ import annotations

import pytest


class Clock:
    """Both clocks that jobs go by, in seconds: one that nobody sets, and the time of day."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic = 1000.0
        self.time = 1.7e9
        monkeypatch.setattr("rack.jobs.steps.monotonic_ns", lambda: round(self.monotonic * 10) * 10**8)
        for module in ("steps", "counting"):
            monkeypatch.setattr(f"rack.jobs.{module}.time_ns", lambda: round(self.time * 10) * 10**8)

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.time += seconds
