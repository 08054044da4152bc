"""How much is written to a store: what has changed between two looks at it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

from rack.care.look import look
from rack.care.stat import Stat
from rack.store.manifest import absolute_path


@dataclass(frozen=True)
class Sight:
    """What a store is like, and what has changed since the look before. Rates are for each second; None: not known."""

    stat: Stat
    at: float  # time.monotonic()
    entries: float | None = None
    commits: tuple[float | None, ...] = ()  # of each shard

    @property
    def all_commits(self) -> float | None:
        known = [rate for rate in self.commits if rate is not None]
        return sum(known) if len(known) == self.stat.shards else None

    @classmethod
    def of(cls, store: str, before: Self | None) -> Self:
        """Look at a store. Its folder is not listed, as that may take long.

        The rate of writes is that of commits. LMDB counts them in each shard for ever. SQLite counts them in the index
        of the log, anew when somebody opens a store that nobody has open: then the rate is not known once.
        """
        stat = look(store, absolute_path(store), leftovers=False)
        now = time.monotonic()
        if before is None or before.stat.id != stat.id:
            return cls(stat, now, None, (None,) * stat.shards)
        seconds = max(now - before.at, 1e-6)
        commits = []
        for old, new in zip(before.stat.per_shard, stat.per_shard, strict=True):
            is_known = old.commits is not None and new.commits is not None and new.commits >= old.commits
            commits.append(((new.commits or 0) - (old.commits or 0)) / seconds if is_known else None)
        return cls(stat, now, (stat.entries - before.stat.entries) / seconds, tuple(commits))
