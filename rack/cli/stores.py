"""Opening the store that a command line names, whatever it holds."""

from __future__ import annotations

import os
from typing import Any

from rack import PersistentDict, PersistentSet
from rack.errors import StoreNotFoundError
from rack.store.manifest import Manifest, manifest_path

CLASSES: dict[str, type[PersistentDict[Any, Any]] | type[PersistentSet[Any]]] = {
    "dict": PersistentDict,
    "set": PersistentSet,
}


def existing(name: str) -> PersistentDict[Any, Any] | PersistentSet[Any]:
    """Return the container of a store that is there, to be read, not open.

    :raises StoreNotFoundError: there is none.
    """
    try:
        manifest = Manifest.read(os.path.abspath(name))
    except FileNotFoundError:
        raise StoreNotFoundError(f"there is no store {name!r}: no {manifest_path(name)}") from None
    return CLASSES[manifest.kind](name, flag="r")
