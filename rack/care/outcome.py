"""What a repair has done: of the store, and of each shard."""

from __future__ import annotations

from dataclasses import dataclass, field

_LISTED = 20  # problems of a shard that are listed; the others are counted


@dataclass
class ShardReport:
    """What became of one shard: one of the ``shards`` of what :func:`rack.repair` returns."""

    #: Which shard it is, from 0.
    number: int
    #: Its file.
    path: str
    #: How many entries it says it has; None if that is lost too.
    counted: int | None = None
    #: How many are in the new store; of those, how many from pages that may be old (``stray=True``).
    kept: int = 0
    strays_kept: int = 0
    #: How many could be had from pages that may be old, at most.
    strays: int = 0
    #: How many were read and refused: they are not what the store can have stored there.
    refused: int = 0
    #: What is wrong with it, in words; the first 20 problems.
    problems: list[str] = field(default_factory=list)
    #: How many problems there are, also those that are not listed.
    found: int = 0

    @property
    def lost(self) -> int | None:
        """How many entries are lost; None if that is not known."""
        return None if self.counted is None else max(0, self.counted - self.kept)

    def add(self, message: str) -> None:
        """Add a problem. The first ones are listed; all are counted."""
        self.found += 1
        if self.found <= _LISTED:
            self.problems.append(message)

    def add_all(self, other: ShardReport) -> None:
        """Add the problems of another report."""
        self.problems += other.problems[: _LISTED - len(self.problems)]
        self.found += other.found


@dataclass
class Report:
    """What :func:`rack.repair` has done.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "reported", shards=2) as seen:
    ...     seen.update(range(10))
    >>> report = rack.repair(tmp / "reported", tmp / "repaired")
    >>> report.sound, report.kept, [shard.lost for shard in report.shards]
    (True, 10, [0, 0])
    """

    #: The damaged store, as it was given.
    name: str
    #: The new store.
    to: str
    #: What became of each shard, in the order of their numbers.
    shards: list[ShardReport] = field(default_factory=list)
    #: What is wrong with the store as a whole, in words; what was guessed.
    problems: list[str] = field(default_factory=list)
    #: What could not be checked, in words.
    not_checked: list[str] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """How many entries are in the new store."""
        return sum(shard.kept for shard in self.shards)

    @property
    def sound(self) -> bool:
        """Whether nothing was damaged, and so nothing is lost."""
        return not self.problems and not any(shard.found or shard.lost or shard.refused for shard in self.shards)

    def as_dict(self) -> dict[str, object]:
        """Return the report as ``rack repair --json`` prints it. O(s + k) for s shards and k problems.

        :returns: a dict that JSON can hold.
        """
        shards = [
            {
                "shard": shard.number,
                "file": shard.path,
                "counted": shard.counted,
                "kept": shard.kept,
                "lost": shard.lost,
                "refused": shard.refused,
                "strays": shard.strays,
                "strays_kept": shard.strays_kept,
                "found": shard.found,
                "problems": shard.problems,
            }
            for shard in self.shards
        ]
        return {
            "name": self.name,
            "to": self.to,
            "sound": self.sound,
            "kept": self.kept,
            "problems": self.problems,
            "not_checked": self.not_checked,
            "shards": shards,
        }
