"""Stats that are counted at hand, and handed on a few times a second: Scrapy's collector takes a while for each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from scrapy.statscollectors import StatsCollector


class Tally:
    """Stands for a crawl's stats. Whatever else is asked of them than to count is asked of themselves."""

    def __init__(self, stats: StatsCollector) -> None:
        self._stats = stats
        self._counts: Counter[str] = Counter()

    def inc_value(self, key: str, count: int = 1) -> None:
        self._counts[key] += count

    def hand_on(self) -> None:
        """Have everything that was counted in the stats."""
        counts, self._counts = self._counts, Counter()
        for key, count in counts.items():
            self._stats.inc_value(key, count)

    def __getattr__(self, name: str) -> Any:
        self.hand_on()
        return getattr(self._stats, name)
