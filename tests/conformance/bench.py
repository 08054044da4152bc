"""One shard on the bench: opened through the engine, seeded and read through the raw file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rack.shard import shard_class
from rack.shard.base import Shard, ShardSpec
from tests.conformance.raw import Hash, RawEngine, sha256


def constant(data: bytes) -> bytes:
    """A digest on which all long keys collide."""
    return b"same"


HASHES: dict[str, Hash] = {"sha256": sha256, "constant": constant}


class Bench:
    """``shard`` is open; ``stored`` and ``seed`` go behind its back while it is closed."""

    def __init__(
        self, engine: str, raw: RawEngine, directory: Path, hash: Hash = sha256, durability: str = "process"
    ) -> None:
        self.raw = raw
        self.hash = hash
        self.path = directory / f"shard{raw.suffix}"
        self.sound = True  # whether check() must pass in the end
        self.rejoined = 0
        self._class = shard_class(engine)
        self._spec: dict[str, Any] = {
            "path": str(self.path),
            "store_id": "0123456789abcdef" * 2,
            "number": 3,
            "layout": "direct",
            "hash": hash,
            "durability": durability,
            "readonly": False,
        }
        self._opened: Shard | None = None
        self._class.create(ShardSpec(**self._spec))
        self._start_journal()
        self.open()

    @property
    def shard(self) -> Shard:
        assert self._opened is not None
        return self._opened

    def open(self, **changes: Any) -> None:
        """Open the shard, anew if it is open, with other things in its spec."""
        self.close()
        self._opened = self._class.opened(ShardSpec(**self._spec | changes), self)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def stored(self) -> dict[bytes, bytes]:
        """Return what is in the file."""
        self.close()
        try:
            return self.raw.read(self.path)
        finally:
            self.open()

    def seed(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put pairs into the file."""
        self.close()
        self.raw.write(self.path, pairs, self.hash)
        self._start_journal()
        self.open()

    def _start_journal(self) -> None:
        if self._spec["durability"] == "everysec":
            self._class.end_journal(ShardSpec(**self._spec))
            self._class.begin_journals([ShardSpec(**self._spec)])

    def after_power_failure(self) -> dict[bytes, bytes]:
        """Return what a shard with durability "everysec" is made of after a power failure that comes now."""
        self.close()
        try:
            spec = ShardSpec(**self._spec)
            self._class.recover(spec, "everysec")
            return self.raw.read(self.path)
        finally:
            self.open()

    def finish(self) -> None:
        """Every test ends with this."""
        try:
            if self.sound:
                self.shard.check()
        finally:
            self.close()

    # What a shard needs of its store

    def rejoin(self) -> None:
        self.rejoined += 1

    def begin_writing(self) -> bool:
        return False

    def at_home(self, body: Callable[[], object]) -> None:
        body()
