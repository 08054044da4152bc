"""``rack rm``: removes a store, exactly its files."""

from __future__ import annotations

import os

from rack.care import served
from rack.care.alone import locked, not_found
from rack.care.guess import shard_files
from rack.errors import ManifestError, RackError
from rack.shard import shard_class
from rack.shard.address import Address
from rack.store import scratch
from rack.store.files import unlink
from rack.store.manifest import Manifest, absolute_path, is_half_moved, manifest_path, record_path, unfinished_path
from rack.system.disk import path_error, sync_directory


def remove(name: str | os.PathLike[str], *, timeout: float | None = 0) -> None:
    """Remove a store: all of its files, and no others.

    Also one whose manifest is damaged; then it is all that is a shard of it by its name.

    O(files). Atomic: whenever the process is killed, the store is there as it was, or is not there. What may be left of
    it then is out of the way: it is removed when a store of that name is made.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param timeout: how many seconds to wait for others who have the store open; None: until they have closed it.
    :raises StoreNotFoundError: there is no such store.
    :raises StoreInUseError: others have the store open; it says who. Nothing is removed.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen"):
    ...     pass
    >>> rack.remove(tmp / "seen")
    >>> rack.exists(tmp / "seen")
    False
    """
    path = absolute_path(name)
    if isinstance(path, Address):
        served.remove(path)
        return
    if not exists(path):
        raise not_found(path)
    try:
        with locked(path, "remove it", timeout):
            scratch.discard(path)
            try:
                manifest = Manifest.read(path)
                if manifest is None:
                    raise not_found(path)
                shards = manifest.content_files(path)
                manifest.take_back(path)
            except ManifestError as error:
                if error.newer:
                    raise
                shards = [file for of, _, shard in shard_files(path) for file in shard_class(of).files(shard)]
            # The last of them tells which files are the store's.
            unlink([*shards, record_path(path), manifest_path(path), unfinished_path(path)])
            sync_directory(os.path.dirname(path))
    except OSError as error:
        raise error if isinstance(error, RackError) else path_error(error, error.filename or path) from error


def exists(name: str | os.PathLike[str]) -> bool:
    """Return whether there is a store of that name. O(1), and atomic; it is not opened.

    :param name: as for :class:`rack.PersistentSet`.
    :returns: whether there is one, whatever state it is in.
    :raises ValueError: no store can have that name.

    >>> import rack
    >>> rack.exists(tmp / "nowhere")
    False
    """
    path = absolute_path(name)
    if isinstance(path, Address):
        return served.exists(path)
    return os.path.lexists(manifest_path(path)) or is_half_moved(path)
