"""What is made of a store to replace it, or a part of it: ``NAME.rack-part``, a store of its own until then.

Only who has the store's lock exclusively makes one. So who comes in and finds one knows that its maker was killed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rack.errors import ManifestError, RackError
from rack.store import files
from rack.store.lock import StoreLock, lock_path
from rack.store.manifest import Manifest, manifest_path, unfinished_path
from rack.system.disk import path_error

ENDING = ".rack-part"


def scratch_path(path: str) -> str:
    return path + ENDING


def plan_of(scratch: str) -> str:
    """Return the file that says what is being done with what is there."""
    return scratch + ".rack-plan"


def discard(path: str) -> None:
    """Remove what a maker who was killed has left. The caller shares the store's lock, at least."""
    scratch = scratch_path(path)
    if not os.path.lexists(lock_path(scratch)):
        return
    lock = StoreLock(scratch)
    try:
        if lock.claim() and lock.is_current():
            _remove(scratch)
            lock.remove()
    finally:
        lock.close()


def _remove(scratch: str) -> None:
    """Remove the files, and last what tells which they are."""
    for name in (manifest_path(scratch), unfinished_path(scratch)):
        with contextlib.suppress(ManifestError):  # it is not whole, so that nothing was made yet
            if (manifest := Manifest.read_file(name)) is not None:
                files.unlink(manifest.files(scratch)[2:])
        files.unlink([name])
    files.unlink([plan_of(scratch)])


@contextmanager
def making(path: str, manifest: Manifest) -> Iterator[str]:
    """Have a place for a store, or some shards of one, of which nothing is left when the block ends, however it does.

    The caller has the lock of the store at ``path`` exclusively.
    """
    discard(path)
    scratch = scratch_path(path)
    lock = StoreLock(scratch)
    try:
        files.check_makeable(scratch, manifest)
        lock.claim_or_raise("make it anew")
        manifest.begin(scratch)
        yield scratch
    except OSError as error:
        raise error if isinstance(error, RackError) else path_error(error, error.filename or scratch) from error
    finally:
        _remove(scratch)
        lock.remove()
        lock.close()
