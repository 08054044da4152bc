"""The files of a store as a whole: made, given a name, removed. Whoever does so has the store's lock exclusively."""

from __future__ import annotations

import contextlib
import errno
import os

from rack.errors import CorruptShardError, RackError, StoreExistsError
from rack.shard import shard_class
from rack.store.boot import Record, present_stamps
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, Request, manifest_path, record_path, shard_path, unfinished_path
from rack.system.disk import beginning_with, path_error


def create(path: str, manifest: Manifest, request: Request) -> Manifest:
    """Make a store; the caller has its lock exclusively, and there is none."""
    cls = shard_class(manifest.engine)
    try:
        clear(path, manifest)
        manifest.begin(path)
        for number in range(manifest.shards):
            cls.create(manifest.spec(path, number, request, "process", False))
        Record("", "process").write(path, present_stamps(path, manifest))
        manifest.finish(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            clear(path, manifest)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or path) from error
        raise
    return manifest


def clear(path: str, manifest: Manifest) -> None:
    """Make place for a store: remove what a maker who was killed has left.

    :raises CorruptShardError: there are shards without a manifest: somebody's data.
    """
    unfinished = Manifest.read_unfinished(path)
    if unfinished is not None:
        unlink(unfinished.shard_files(path))
    unlink([record_path(path), unfinished_path(path)])  # if it is not whole, there are no shards yet
    cls = shard_class(manifest.engine)
    for number in range(manifest.shards):
        shard = shard_path(path, number, cls.suffix)
        if os.path.lexists(shard):
            raise CorruptShardError(
                errno.EEXIST,
                "this file is in the way of a new store and may hold data: its store's manifest is missing."
                " Restore the manifest, or move the file away",
                shard,
            )
        unlink(cls.files(shard))


def publish(manifest: Manifest, source: str, target: str) -> None:
    """Move a closed anonymous store to ``target``: it is there as a whole, or not at all."""
    lock = StoreLock(target)
    try:
        lock.claim_or_raise("make the store")
        check_absent(target)
        clear(target, manifest)
        manifest.begin(target)
        suffix = shard_class(manifest.engine).suffix
        for number in range(manifest.shards):
            os.rename(shard_path(source, number, suffix), shard_path(target, number, suffix))
        Record("", "process").write(target, present_stamps(target, manifest))
        manifest.finish(target)
    except BaseException:
        if not os.path.lexists(manifest_path(target)):
            with contextlib.suppress(OSError):
                clear(target, manifest)
        raise
    finally:
        lock.close()
        discard(manifest, source)


def check_absent(path: str) -> None:
    """Raise StoreExistsError if there is a store at ``path``."""
    if os.path.lexists(manifest_path(path)):
        raise StoreExistsError(
            errno.EEXIST, "an operation that makes a store does not replace one", manifest_path(path)
        )


def discard(manifest: Manifest, path: str) -> None:
    """Delete the files of a store that nobody has open."""
    unlink(all_files(manifest, path))


def all_files(manifest: Manifest, path: str) -> list[str]:
    return [*manifest.files(path), path + ".rack-lock"]


def unlink(files: list[str]) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)


def anonymous_path(beside: str) -> str:
    """Return a path for a store without a name, beside its source."""
    return f"{beside}-anonymous-{os.urandom(6).hex()}"


def erase_anonymous(path: str) -> None:
    """Delete whatever there is of an anonymous store that could not be made or opened."""
    unlink(beginning_with(path))
