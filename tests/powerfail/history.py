"""What the writers' logs say, and whether what a store serves after a power failure is something it may serve."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rack.store.router import router
from tests.powerfail.recorder import Moment
from tests.powerfail.sessions import NEVER, Session
from tests.powerfail.writers import Tag, value


class LostError(AssertionError):
    """The store does not serve what it promised to."""


@dataclass(slots=True)
class Operation:
    begin: float
    end: float  # NEVER: not acknowledged
    kind: str
    effects: dict[str, Tag | None]
    counter: str | None = None
    count: int | None = None  # what the counter was then
    store: str | None = None  # the id of that it was done to
    jobs: list[str] = field(default_factory=list)  # of a queue


@dataclass(slots=True)
class Log:
    """Of one writer, up to a moment."""

    writer: int
    pid: int = 0
    operations: list[Operation] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    replacing: list[float] = field(default_factory=list)  # when it began to remove a store
    made: dict[str, Operation] = field(default_factory=dict)  # stores of this one, by name

    @classmethod
    def read(cls, path: Path, length: int) -> Log:
        log = cls(int(path.name))
        with open(path, "rb") as file:
            lines = file.read(length).decode().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # a kill tears a write where one page ends and the next begins
            del lines[-1]
        for line in lines:
            try:
                word, *rest = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if word == "failed":
                raise AssertionError(f"writer {path.name}: {rest[0]}")
            if word == "process":
                log.pid = rest[0]
            elif word == "opened":
                time, store, flag, durability = rest
                log.sessions.append(Session(store, flag, durability, time))
            elif word == "replacing":
                log.replacing.append(rest[0])
            elif word == "gone":
                log._end(rest[0])
            elif word == "begin":
                log._begin_operation(rest)
            elif word == "end":
                log._end_operation(rest[1], rest[2])
        return log

    def _begin_operation(self, words: list[Any]) -> None:
        _, begin, kind, effects, *more = words
        session = self.sessions[-1] if self.sessions else None
        operation = Operation(begin, NEVER, kind, effects, store=session and session.store)
        if kind == "incr":
            operation.counter = more[0]
        elif kind == "make":
            self.made[Path(more[0]).name] = operation
        elif kind in ("put", "done", "failed"):  # of a queue
            operation.jobs = more[0]
        elif kind == "close" and session:
            session.closing = begin
        self.operations.append(operation)

    def _end_operation(self, time: float, answer: Any) -> None:
        operation = self.operations[-1]
        operation.end = time
        if answer is False:
            operation.effects = {}
        if operation.counter is not None:
            operation.count = answer
        if self.sessions:
            self.sessions[-1].first = min(self.sessions[-1].first, time)
        if operation.kind == "close":
            self._end(time)
            if self.sessions:
                self.sessions[-1].is_closed = True

    def _end(self, time: float) -> None:
        if self.sessions:
            self.sessions[-1].end = min(self.sessions[-1].end, time)

    def of(self, store: str | None) -> Log:
        """Return what of it was done to one store."""
        mine = [operation for operation in self.operations if operation.store == store]
        sessions = [session for session in self.sessions if session.store == store]
        return Log(self.writer, self.pid, mine, sessions, self.replacing, self.made)


class Past:
    """All that the writers had done by a moment, for each shard.

    :param store: the id of the store of which it is, if there was more than one.
    :param before: what was in it before, which nobody has changed since; None: there was no store.
    """

    def __init__(
        self, logs: Path, moment: Moment, shards: int, store: str | None = None, before: dict[str, Any] | None = None
    ) -> None:
        self.moment = moment
        self.before = before
        every = [Log.read(logs / name, length) for name, length in sorted(moment.logs.items())]
        self._logs = every if store is None else [log.of(store) for log in every]
        opened = sorted((session for log in every for session in log.sessions), key=lambda session: session.begin)
        self.stores = list(dict.fromkeys(session.store for session in opened))
        self.sessions = [session for log in self._logs for session in log.sessions]
        self.made = {name: operation for log in self._logs for name, operation in log.made.items()}
        #: Whether the store must be there: it was opened, and nobody has begun to remove it since.
        newest = min((session.begin for session in opened if session.store == self.stores[-1]), default=-NEVER)
        self.was_opened = bool(opened) and not any(time > newest for log in every for time in log.replacing)
        self.operations = everything = [operation for log in self._logs for operation in log.operations]
        syncs = [operation.begin for operation in everything if operation.kind == "sync" and operation.end < NEVER]
        #: When the last sync that was acknowledged began: what was acknowledged by then is on the disk.
        self.synced = max(syncs, default=-NEVER)
        self._route = router(range(shards))
        clears = [operation for operation in everything if operation.kind == "clear"]
        self._shards = [
            {log.writer: Line(number, log, clears, self._route) for log in self._logs} for number in range(shards)
        ]
        self._counted = Counter(operation.counter for operation in everything)
        self._owner = {
            name: log.writer for log in self._logs for operation in log.operations for name in operation.effects
        }

    def may_be_refused(self, since: float) -> bool:
        """Return whether somebody used the store with "process" after that."""
        return any(session.durability == "process" and session.end > since for session in self.sessions)

    def check_prefix(self, served: dict[str, Any], since: float) -> int:
        """Each shard is as it was at one moment, with all in it that was acknowledged by ``since``.

        Return how many acknowledged operations are lost.
        """
        for name, data in (self.before or {}).items():
            if name not in served or served.pop(name) != data:
                raise LostError(f"{name[:60]!r} is not as it was after the power failure before")
        lost = 0
        for number, (lines, content) in enumerate(zip(self._shards, self._split(served), strict=True)):
            chosen = {}
            for writer, line in lines.items():
                found = line.moments(content.pop(writer, {}), content[-1])
                least = line.ended_by(since)
                chosen[writer] = _Choice(line, [at for at in found if at >= least])
                if not chosen[writer].possible:
                    wrong = (
                        "nothing it ever was" if not found else f"as after operation {found[-1]} of {least} at least"
                    )
                    raise LostError(f"shard {number} is, in the keys of writer {writer}, {wrong}")
            _agree(number, chosen)
            lost += sum(max(0, choice.line.ended_by(NEVER) - choice.at) for choice in chosen.values())
        return lost

    def check_values(self, served: dict[str, Any], since: float) -> None:
        """Each key has a value, or none, that it had when ``since`` was, or since."""
        for number, (lines, content) in enumerate(zip(self._shards, self._split(served), strict=True)):
            counters = content.pop(-1)
            for writer, line in lines.items():
                line.check_values(number, content.pop(writer, {}), counters, since)

    def _split(self, served: dict[str, Any]) -> list[dict[int, dict[str, Any]]]:
        """Return for each shard, and each writer (-1: all), what is served under its keys."""
        parts: list[dict[int, dict[str, Any]]] = [defaultdict(dict) for _ in self._shards]
        for name, data in served.items():
            if "/counter/" in name:
                owner = -1
                if not (type(data) is int and 0 < data <= self._counted[name]):
                    raise LostError(f"{name} is {data!r}, and was incremented {self._counted[name]} times")
            elif name in self._owner:
                owner = self._owner[name]
            else:
                raise LostError(f"there is a key that nobody wrote: {name[:60]!r}")
            parts[self._route(name.encode())][owner][name] = data
        for part in parts:
            part[-1] = part.get(-1, {})
        return parts


class Line:
    """What one writer did to one shard, in order; a moment in it is how many operations have happened."""

    def __init__(self, shard: int, log: Log, clears: list[Operation], route: Any) -> None:
        def is_here(name: str) -> bool:
            return bool(route(name.encode()) == shard)

        mine = [
            Operation(
                operation.begin,
                operation.end,
                operation.kind,
                {name: tag for name, tag in operation.effects.items() if is_here(name)},
                operation.counter if operation.counter and is_here(operation.counter) else None,
                operation.count,
            )
            for operation in log.operations
            if operation.kind != "clear"
        ]
        self.operations = sorted(
            [operation for operation in mine if operation.effects or operation.counter] + clears,
            key=lambda operation: operation.begin,
        )
        self.begins = [operation.begin for operation in self.operations]
        # An operation of a writer that was killed in it, and a clear behind that: whether it happened is not known.
        self.ends = [operation.end for operation in self.operations]
        for at in range(len(self.ends) - 1, 0, -1):
            self.ends[at - 1] = min(self.ends[at - 1], self.ends[at])

    def ended_by(self, time: float) -> int:
        return bisect_right(self.ends, time) if time < NEVER else bisect_left(self.ends, NEVER)

    def moments(self, content: dict[str, Any], counters: dict[str, int]) -> list[int]:
        """Return the moments at which the writer's keys were as they are served, and its share of the counters."""
        wrong = set(content)
        counted = [
            (operation.counter, operation.count)
            for operation in self.operations
            if operation.counter is not None and operation.count is not None
        ]
        missing = sum(count <= counters.get(name, 0) for name, count in counted)
        early = 0  # counted, and above what is served
        found = [0] if not wrong and not missing else []
        for at, operation in enumerate(self.operations, 1):
            if operation.kind == "clear":
                wrong = set(content)
                early = 0
            for name, tag in operation.effects.items():
                if _is_value(content.get(name), tag):
                    wrong.discard(name)
                else:
                    wrong.add(name)
            if operation.counter is not None and operation.count is not None:
                if operation.count <= counters.get(operation.counter, 0):
                    missing -= 1
                else:
                    early += 1
            if not wrong and not missing and not early:
                found.append(at)
        return found

    def check_values(self, shard: int, content: dict[str, Any], counters: dict[str, int], since: float) -> None:
        first = self.ended_by(since)
        allowed: dict[str, list[Tag | None]] = {}
        least: dict[str, int] = {}
        for at, operation in enumerate(self.operations, 1):
            if operation.kind == "clear":
                for tags in allowed.values():
                    tags[:] = [None] if at <= first else [*tags, None]
                least.clear()
            for name, tag in operation.effects.items():
                tags = allowed.setdefault(name, [None])
                tags[:] = [tag] if at <= first else [*tags, tag]
            if operation.counter is not None and operation.count is not None and at <= first:
                least[operation.counter] = operation.count
        cleared = any(operation.kind == "clear" for operation in self.operations[first:])
        for name, tags in allowed.items():
            if not any(_is_value(content.get(name), tag) for tag in tags):
                raise LostError(
                    f"shard {shard}: {name[:40]!r} has {_shown(content.get(name))}, and not what it had at the last"
                    f" sync or since: {tags[:5]}"
                )
        for name, count in least.items():
            if counters.get(name, 0) < count and not cleared:
                raise LostError(f"shard {shard}: {name} is {counters.get(name, 0)}, and was {count} at the last sync")


@dataclass(slots=True)
class _Choice:
    """At which of the possible moments a line may be, given the others."""

    line: Line
    possible: list[int]

    @property
    def at(self) -> int:
        return self.possible[0]


def _agree(number: int, chosen: dict[int, _Choice]) -> None:
    """Raise LostError unless all lines of a shard may be at one moment.

    What begins after something else has ended is there only if that is.
    """
    changed = True
    while changed:
        changed = False
        last = max((choice.line.begins[choice.at - 1] for choice in chosen.values() if choice.at), default=-NEVER)
        for writer, choice in chosen.items():
            least = bisect_left(choice.line.ends, last)
            if choice.at < least:
                choice.possible = [at for at in choice.possible if at >= least]
                changed = True
                if not choice.possible:
                    raise LostError(
                        f"shard {number} lacks what writer {writer} had done before something that is there"
                    )


def _is_value(data: Any, tag: Tag | None) -> bool:
    if tag is None or data is None:
        return data is None and tag is None
    return bool(len(data) == tag[3] and data == value(*tag))


def _shown(data: Any) -> str:
    return "no value" if data is None else f"{data[:30]!r} ({len(data)} bytes)"
