"""The files of a store as a whole: made, given a name, removed. Whoever does so has the store's lock exclusively."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from io import FileIO

from rack.errors import CorruptShardError, RackError, ReadOnlyError, StoreExistsError, StorePathError
from rack.shard import shard_class
from rack.store.lock import StoreLock
from rack.store.manifest import (
    Manifest,
    Request,
    backup_path,
    is_half_moved,
    manifest_path,
    record_path,
    shard_path,
    unfinished_path,
)
from rack.store.record import Record, present_stamps
from rack.system.disk import path_error, sync_paths
from rack.system.place import scratch_path, take_after

_FOR_A_SHARD = 3  # with fewer, shards would be put away and opened again all the time
_SPARE_DESCRIPTORS = 16  # for what an operation opens for a moment


def check_makeable(path: str, manifest: Manifest) -> None:
    """Raise StorePathError if a store could not be made for want of length of names, or of descriptors to open it."""
    cls = shard_class(manifest.engine)
    cls.check_usable()
    check_descriptors(manifest)
    directory, name = os.path.split(path)
    files = [manifest_path(path), path + ".rack-lock", *cls.files(shard_path(path, 0, cls.suffix))]
    ending = max(file.removeprefix(path) for file in files if len(file) == max(map(len, files)))
    for what, limit, size in (
        ("name", "PC_NAME_MAX", len(os.fsencode(name))),
        ("path", "PC_PATH_MAX", len(os.fsencode(path))),
    ):
        try:
            most = min(os.pathconf(directory, limit), cls.longest_path)
        except OSError:  # no such directory, or it is too long itself: making the first file tells
            continue
        if size + len(ending) > most:
            raise StorePathError(
                errno.ENAMETOOLONG,
                f"the store's {what} is too long: it has {size} bytes, files of the store get up to {len(ending)} more"
                f" ({ending!r}), and {most} is the most here",
                path,
            )


def check_own(path: str, manifest: Manifest) -> None:
    """Raise ReadOnlyError for a backup that shares files with others: writing to it would change those."""
    if not os.path.lexists(backup_path(path)):
        return
    suffix = shard_class(manifest.engine).suffix
    for number in range(manifest.shards):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(shard_path(path, number, suffix)).st_nlink > 1:
                raise ReadOnlyError(
                    errno.EROFS,
                    "this is a backup that shares files with others: open it to read, or make a store of it with"
                    f" `rack restore {path} NEW`",
                    manifest_path(path),
                )


def check_descriptors(manifest: Manifest) -> None:
    """Raise StorePathError if this process may not have as many descriptors as the store takes when it is open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    need = manifest.shards * _FOR_A_SHARD + _SPARE_DESCRIPTORS
    if limit == resource.RLIM_INFINITY or 2 * need < limit:
        return
    used = limit
    with contextlib.suppress(OSError):  # there is none left to look with
        used = len(os.listdir("/dev/fd"))
    if used + need > limit:
        raise StorePathError(
            errno.EMFILE,
            f"a store of {manifest.shards} shards takes {need} descriptors, and this process may have {limit}, of"
            f" which {used} are in use: raise the limit (`ulimit -n {_round(used + need)}`, or resource.setrlimit), or"
            " make a store with fewer shards",
        )


def _round(count: int) -> int:
    return -(-count // 1024) * 1024


def create(path: str, manifest: Manifest, request: Request, durability: str) -> Manifest:
    """Make a store; the caller has its lock exclusively, and there is none."""
    cls = shard_class(manifest.engine)
    replaced = None
    check_makeable(path, manifest)
    try:
        with contextlib.suppress(FileNotFoundError):
            replaced = os.stat(unfinished_path(path))
        clear(path, manifest)
        manifest.begin(path)
        for number in range(manifest.shards):
            cls.create(manifest.spec(path, number, request, "process", False))
        Record("", durability, present_stamps(path, manifest)).write(path)  # it tells the durability
        sync_paths([record_path(path), *(shard_path(path, number, cls.suffix) for number in range(manifest.shards))])
        if replaced is not None:
            _give(manifest.files(path), replaced)
        manifest.finish(path)
    except BaseException as error:
        unmake(path, manifest)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or path) from error
        raise
    return manifest


def unmake(path: str, manifest: Manifest) -> None:
    """Leave nothing of a store that could not be made, by the caller, who has its lock exclusively."""
    with contextlib.suppress(OSError):
        if os.path.lexists(manifest_path(path)):
            manifest.take_back(path)
        clear(path, manifest)


def _give(files: list[str], replaced: os.stat_result) -> None:
    """Let new files be those of the owner of a store that they replace."""
    for file in files:
        with contextlib.suppress(FileNotFoundError), FileIO(file) as opened:
            take_after(opened.fileno(), replaced)


def clear(path: str, manifest: Manifest) -> None:
    """Make place for a store: remove what a maker who was killed has left.

    :raises CorruptShardError: there are shards without a manifest: somebody's data.
    """
    unfinished = Manifest.read_unfinished(path)
    if unfinished is not None:
        unlink(unfinished.content_files(path))
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


def publish(manifest: Manifest, source: str, target: str, durability: str) -> None:
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
        with contextlib.suppress(FileNotFoundError):
            os.rename(backup_path(source), backup_path(target))
        Record("", durability, present_stamps(target, manifest)).write(target, sync=True)
        manifest.finish(target)
    except BaseException:
        if not os.path.lexists(manifest_path(target)):
            with contextlib.suppress(OSError):
                clear(target, manifest)
            lock.remove()
        raise
    finally:
        lock.close()
        discard(manifest, source)


def check_absent(path: str) -> None:
    """Raise StoreExistsError if there is a store at ``path``."""
    if os.path.lexists(manifest_path(path)) or is_half_moved(path):
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


def anonymous_path(beside: str, anywhere: bool = False) -> str:
    """Return a path for a store without a name, beside its source or target.

    :param anywhere: in the temporary directory, if it cannot be made there.
    """
    return scratch_path(beside, "anonymous", anywhere)
