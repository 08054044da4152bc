"""Opening the store that a command line names, whatever it holds."""

from __future__ import annotations

from rack.cli.patience import PatientDict, PatientSet
from rack.errors import StoreNotFoundError
from rack.store.manifest import Manifest, absolute_path, manifest_path

CLASSES: dict[str, type[PatientDict] | type[PatientSet]] = {"dict": PatientDict, "set": PatientSet}


def existing(name: str) -> PatientDict | PatientSet:
    """Return the container of a store that is there, to be read, not open.

    :raises StoreNotFoundError: there is none.
    """
    manifest = Manifest.read(absolute_path(name))
    if manifest is None:
        raise StoreNotFoundError(f"there is no store {name!r}: no {manifest_path(name)}")
    return CLASSES[manifest.kind](name, flag="r")
