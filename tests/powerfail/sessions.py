"""Who had a store open, and when; and so what has to be on the disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

NEVER = math.inf
SLACK = 1.0  # seconds that "about the last second" may be longer than a second


@dataclass(slots=True)
class Session:
    """One process, from opening the store to closing it. NEVER: that has not come."""

    store: str | None  # its id
    flag: str
    durability: str
    begin: float
    first: float = NEVER  # when its first operation was acknowledged
    closing: float = NEVER  # when it began to close the store
    end: float = NEVER  # when it had, or was found to be gone
    is_closed: bool = False  # whether it had: a process may be killed while it closes the store

    @property
    def writes(self) -> bool:
        return self.flag != "r"


def closed_by(sessions: list[Session], engine: str) -> float:
    """Return when the last closing that has all on the disk began: what was acknowledged by then is there.

    It is that of whoever is the last who may write (SQLite: the last of all); with "everysec", of any writer.
    """
    return max((session.closing for session in sessions if _syncs(session, sessions, engine)), default=-NEVER)


def _syncs(session: Session, sessions: Iterable[Session], engine: str) -> bool:
    if not session.is_closed:
        return False
    if session.durability == "everysec" and session.writes:
        return True
    return not any(
        other.begin < session.end and session.closing < other.end and (other.writes or engine == "sqlite3")
        for other in sessions
        if other is not session
    )


def kept_by(sessions: Iterable[Session], failure: float, stopped: Callable[[float, float], float]) -> float:
    """Return by when all is on the disk because a process with "everysec" looks after it every second.

    :param stopped: tells for how much of a time all processes were stopped.
    """
    least = -NEVER
    for session in sessions:
        if session.writes and session.durability == "everysec":
            end = min(session.end, session.closing, failure)
            by = end - 1 - SLACK
            by -= stopped(by, end)
            if by >= session.first:
                least = max(least, by)
    return least
