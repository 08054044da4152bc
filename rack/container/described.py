"""What a container tells of itself: attributes, ``repr``, a table in notebooks, ``stat()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rack.container.handle import Handle
from rack.errors import RackError, StoreDeletedError
from rack.store.manifest import manifest_path
from rack.system.imports import importing

if TYPE_CHECKING:
    from rack.care.stat import Stat


class Described(Handle):
    """A container's description of itself."""

    @property
    def engine(self) -> str:
        """The engine of the store, "lmdb" or "sqlite3". How many shards it has is ``len(d.shards())``."""
        return self._manifest.engine

    @property
    def durability(self) -> str:
        """What the store survives as this process has it open: "process", "everysec" or "always"."""
        durability: str = self._open_store().durability
        return durability

    @property
    def serdes(self) -> str:
        """The name of the serializer that the store was made with, such as "marshal"."""
        return self._manifest.serdes

    @property
    def key_serdes(self) -> str:
        """The name of what turns keys into bytes, such as "canonical" or "str"."""
        return self._manifest.key_serdes

    def stat(self, *, leftovers: bool = True) -> Stat:
        """Look at the store: how large it is, how much of it is free, who uses it, what should be done about it.

        O(shards), and for ``leftovers`` O(f) for a folder of f files. It waits for no writer. Not atomic: the shards
        are looked at one after another. Of a snapshot it is the store's, as that is now.

        :param leftovers: whether to look for what killed processes have left beside the store.
        :returns: a :class:`rack.care.stat.Stat`, as :func:`rack.stat` returns it.
        :raises NotOpenError: the container is not open.
        :raises StoreDeletedError: the store was removed or replaced since it was opened.
        :raises CorruptShardError: a shard is damaged where it is looked at.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "described") as ages:
        ...     ages["ann"] = 31
        ...     ages.stat().entries
        1
        """
        with importing():
            from rack.care.look import look

        held = self._open_store()
        if not held.is_current():
            raise StoreDeletedError(f"{manifest_path(held.path)} was removed or replaced while the store was open")
        return look(self.name, held.path, leftovers)

    def _count_at_once(self) -> int | None:
        """Return how many entries there are; None if that had to wait, or cannot be told."""
        held = self._held
        try:
            if held is None or not held.is_ready:
                return None
            total = 0
            for shard in self._store.shards:
                count = shard.count_at_once()
                if count is None:
                    return None
                total += count
            return total
        except (RackError, OSError):  # no others: a signal handler's comes out as it is
            return None

    def _description(self) -> dict[str, object]:
        """Return what is known without waiting, in words."""
        held = self._held
        if held is None:
            return {"state": "closed"}
        manifest = held.manifest
        shards = f"{manifest.shards} shard{'s' if manifest.shards != 1 else ''}"
        described: dict[str, object] = {"engine": manifest.engine, "shards": shards}
        if self._is_snapshot:
            described["state"] = "snapshot"
        if (count := self._count_at_once()) is not None:
            described["entries"] = f"{count} entr{'ies' if count != 1 else 'y'}"
        return described

    def __repr__(self) -> str:
        """Return class, name, engine and size, without waiting: O(shards). What is not known at once is left out."""
        return f"<{type(self).__name__} {', '.join(map(str, [repr(self.name), *self._description().values()]))}>"

    def _repr_html_(self) -> str:
        """Return a small table, which notebooks show."""
        with importing():
            from html import escape

        rows = {"name": self.name, **self._description()}
        if (held := self._held) is not None:
            manifest = held.manifest
            rows |= {"serdes": manifest.serdes, "key serdes": manifest.key_serdes, "durability": held.durability}
        lines = [f"<tr><th>{escape(title)}</th><td>{escape(str(value))}</td></tr>" for title, value in rows.items()]
        return f"<table><caption>{escape(type(self).__name__)}</caption>{''.join(lines)}</table>"
