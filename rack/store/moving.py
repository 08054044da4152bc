"""Moving a store to another name, perhaps in place of another store: it happens as a whole, or not at all.

A store is many files, which cannot be renamed at once. Its manifest is one, and that decides: a store without a
manifest does not exist. So a store moves from A to B when A's manifest becomes B's ``.rack-moved``: from then on A is
not there, and whoever opens B finishes what may be left to do. These are the steps, all of which can be done again:

1. the plan is put down, in the scratch place of B (:mod:`rack.store.scratch`): it says where the files come from, and
   where those of a store that is at B go;
2. ``B.rack`` becomes ``B.rack-old``, if there is one: whoever finds that without what follows takes it back;
3. ``A.rack`` becomes ``B.rack-moved``: done, as far as anybody is told;
4. the files of the old store get their new names, or are removed, and last ``B.rack-old``;
5. the files of A get B's names, and last ``B.rack-moved`` becomes ``B.rack``.

Nothing here is looked at while there is a manifest: opening a store costs no more.
"""

from __future__ import annotations

import contextlib
import os

from rack.errors import ManifestError, RackError
from rack.store.files import unlink
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, manifest_path, moved_path, old_path
from rack.store.scratch import plan_of, scratch_path
from rack.system.disk import path_error, sync_directory
from rack.system.imports import importing


def plan_path(path: str) -> str:
    return plan_of(scratch_path(path))


def move(source: str, target: str, aside: str | None = None) -> None:
    """Move the store at ``source`` to ``target``, on the same file system.

    A store that is at ``target`` is moved to ``aside``, where there is none, or removed if that is None. The caller has
    the locks of all of them exclusively, and is making something in the scratch place of ``target``.
    """
    try:
        _write_plan(source, target, aside)
        with contextlib.suppress(FileNotFoundError):
            os.rename(manifest_path(target), old_path(target))
        os.rename(manifest_path(source), moved_path(target))
        for directory in {os.path.dirname(source), os.path.dirname(target)}:
            sync_directory(directory)
        settle(target)
    except OSError as error:
        if not os.path.lexists(moved_path(target)):
            settle(target)
        if isinstance(error, RackError):
            raise
        raise path_error(error, error.filename or target) from error


def settle(path: str) -> None:
    """Finish what :func:`move` has begun, or take it back. The caller has the lock of the store exclusively."""
    if os.path.lexists(moved_path(path)):
        source, aside = _read_plan(path)
        if (old := Manifest.read_file(old_path(path))) is not None:
            _put_aside(old, path, aside)
        moved = Manifest.read_file(moved_path(path))
        assert moved is not None
        _rename_files(moved, source, path)
        os.rename(moved_path(path), manifest_path(path))
        sync_directory(os.path.dirname(path))
        lock = StoreLock(source)
        lock.remove()
        lock.close()
    elif os.path.lexists(old_path(path)):
        os.rename(old_path(path), manifest_path(path))
    unlink([plan_path(path)])


def _put_aside(old: Manifest, path: str, aside: str | None) -> None:
    if aside is None:
        unlink(old.content_files(path))
        sync_directory(os.path.dirname(path))
        os.unlink(old_path(path))
    else:
        _rename_files(old, path, aside)
        os.rename(old_path(path), manifest_path(aside))
        sync_directory(os.path.dirname(aside))
    sync_directory(os.path.dirname(path))


def _rename_files(manifest: Manifest, source: str, target: str) -> None:
    """Give the files of a store, but for the manifest, other names: those that have them not yet."""
    for old, new in zip(manifest.content_files(source), manifest.content_files(target), strict=True):
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, new)
    for directory in {os.path.dirname(source), os.path.dirname(target)}:
        with contextlib.suppress(FileNotFoundError):
            sync_directory(directory)


def _write_plan(source: str, target: str, aside: str | None) -> None:
    with importing():
        import json

    directory = os.path.dirname(target)
    names = {"source": source, "aside": aside}
    # Relative, so that it holds when the folder is renamed.
    plan = {name: None if path is None else os.path.relpath(path, directory) for name, path in names.items()}
    with open(plan_path(target), "w", errors="surrogateescape") as file:
        json.dump(plan, file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)


def _read_plan(path: str) -> tuple[str, str | None]:
    with importing():
        import json

    directory = os.path.dirname(path)
    try:
        with open(plan_path(path), "rb") as file:
            plan = json.loads(file.read())
        source, aside = (
            None if plan[name] is None else os.path.normpath(os.path.join(directory, plan[name]))
            for name in ("source", "aside")
        )
        assert source is not None
        return source, aside
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ManifestError(
            f"{plan_path(path)}, which says from where {path} was being moved, cannot be read ({error}): give its files"
            f" the names that they need, and {os.path.basename(moved_path(path))} that of {manifest_path(path)}"
        ) from error
