"""What happens before a process is let into a store: recovery after a power failure, and which durability it has."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from rack.errors import CorruptShardError, MismatchError, RackError
from rack.shard import shard_class
from rack.shard.base import Shard, ShardSpec
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.record import Record, copy_problem, present_stamps
from rack.system.disk import sync_paths
from rack.system.flock import holders
from rack.system.imports import importing
from rack.system.place import may_write

#: Seconds between two lines about how far a recovery is.
TOLD_EVERY = 1.0

#: What is told of a recovery that takes long, and of what it may have cost. None: it is logged, as "rack".
tell: Callable[[str], object] | None = None


class DurabilityInUseError(MismatchError):
    """Others have the store open with another durability; it may be that they are just giving it back."""


def admit(path: str, manifest: Manifest, request: Request, asked: str | None, readonly: bool, lock: StoreLock) -> str:
    """Let an opener of the store in, who is inside the gate and shares the lock; return the durability it has.

    After a power failure the store is recovered first: O(n). Who opens it to read does that too, if he may write.

    :raises CorruptShardError: the power failure may have damaged a shard, or the files are a copy of a store in use.
    :raises MismatchError: other processes have the store open with another durability.
    """
    record = Record.read(path)
    if (problem := copy_problem(path, manifest, record)) is not None:
        raise CorruptShardError(f"{manifest_path(path)} {problem}")
    specs = [manifest.spec(path, number, request, "process", False) for number in range(manifest.shards)]
    # Who has it open has recovered it, or was there before the record was lost.
    if record.boot and not record.is_of_this_boot() and is_alone(lock):
        may_recover = not readonly or may_write(specs[0].path)
        record = _recovered(path, manifest, [spec._replace(readonly=not may_recover) for spec in specs], record)
    wanted = asked or record.durability
    if readonly:
        return record.durability
    if wanted != record.durability and "everysec" in (wanted, record.durability):
        if not is_alone(lock):
            who = f"{holders(lock.path)} has {manifest_path(path)} open with"
            raise DurabilityInUseError(
                f"durability={wanted!r} was given, but {who} {record.durability!r}: close it there first"
            ).in_words(
                f"{who} the durability {record.durability}, and not {wanted}: while it is so, others can only have the"
                " same"
            )
        _change(path, manifest, specs, record, wanted)
    return wanted


def _tell(level: str, message: str) -> None:
    if tell is not None:
        tell(message)
        return
    with importing():
        import logging

    getattr(logging.getLogger("rack"), level)(message)


def is_alone(lock: StoreLock) -> bool:
    """Return whether nobody else has the store open. The lock is shared again afterwards."""
    if lock.identity() is None:
        return True  # on a medium that nobody can write to
    alone = lock.claim()
    lock.share()
    return alone


def _recovered(path: str, manifest: Manifest, specs: Sequence[ShardSpec], record: Record) -> Record:
    """Recover a store that was in use under another boot, or of which nothing is known; return its new record."""
    cls = shard_class(manifest.engine)
    durability: str | None = record.durability
    if not record.is_known:
        # Who may not make the files anew has to be content with what looks sound.
        is_owner = os.geteuid() in (0, os.stat(manifest_path(path)).st_uid)
        durability = "everysec" if is_owner and any(cls.has_journal(spec.path) for spec in specs) else None
    name = manifest_path(path)
    last = time.monotonic()
    for done, spec in enumerate(specs, 1):
        cls.recover(spec, durability)
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            _tell("info", f"{name}: {done} of {len(specs)} shards are recovered, as the system had stopped")
    if record.is_known and durability == "everysec":
        _tell(
            "warning",
            f"{name} was in use when the system stopped: what was written in about the last second before that may be"
            " lost",
        )
    record = Record("", record.durability, present_stamps(path, manifest))
    with contextlib.suppress(RackError):  # who may not write leaves it as it is
        record.write(path)
    return record


def _change(path: str, manifest: Manifest, specs: Sequence[ShardSpec], record: Record, durability: str) -> None:
    """Change the durability of a store that nobody else has open to or from "everysec"."""
    cls: type[Shard] = shard_class(manifest.engine)
    if record.boot or record.durability == "everysec":
        # What is journalled is needed until the record says that it is not.
        sync_paths([file for spec in specs for file in cls.unsynced_files(spec.path)])
    changed = Record("", durability, present_stamps(path, manifest))
    if durability != "everysec":
        changed.write(path, sync=True)
    for spec in specs:  # to "everysec": what a change that was killed has left
        cls.end_journal(spec)
    if durability == "everysec":
        changed.write(path, sync=True)
