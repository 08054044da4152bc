"""Opening the store that a command line names, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rack.cli.failure import Failure
from rack.cli.patience import PatientDict, PatientQueue, PatientRecords, PatientSet
from rack.cli.values import written_as
from rack.codec import digest
from rack.codec.keys import BLIND, CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import PRESETS, Serdes
from rack.errors import RackError, StoreNotFoundError
from rack.store.manifest import Manifest, absolute_path, manifest_path
from rack.store.where import site_of

CLASSES: dict[str, type[PatientDict] | type[PatientSet]] = {"dict": PatientDict, "set": PatientSet}


def count_of(name: str) -> int:
    """Return how many entries a store has, for a progress bar; 0 if that cannot be told."""
    try:
        with whatever(name) as entries:
            return len(entries)
    except RackError:
        return 0  # what is to be done will tell


def existing(name: str, flag: str = "r", **options: Any) -> PatientDict | PatientSet:
    """Return the container of a store that is there, to be read, not open.

    :raises StoreNotFoundError: there is none.
    :raises Failure: it is a queue.
    """
    return CLASSES[_no_queue(manifest_of(name), name).kind](name, flag=flag, **options)


def whatever(name: str) -> PatientDict | PatientSet | PatientQueue:
    """As :func:`existing`, also of a queue."""
    return PatientQueue(name, flag="r") if manifest_of(name).kind == "queue" else existing(name)


def records(name: str) -> PatientRecords:
    """Return the records of a queue that is there, to be read, not open."""
    store = PatientRecords(name, flag="r")
    codec = resolve_codec("bytes", PRESETS["bytes"])
    store._request = store._request._replace(opaque=True, serdes=PRESETS["bytes"], key_serdes=codec)
    return store


def _no_queue(manifest: Manifest, name: str) -> Manifest:
    if manifest.kind == "queue":
        raise Failure(f"{name} is a queue, and no set or dict: `rack queue` shows what is in it")
    return manifest


def readable(name: str) -> PatientDict | PatientSet:
    """Return the container of a store that is there, to be gone through, not open, whatever functions it was made with.

    What only a function of the user's understands is read as the bytes that are stored. For keys that take a class of
    the program's stands :class:`rack.codec.canonical.Unread`.

    :raises StoreNotFoundError: there is none.
    """
    manifest = _no_queue(manifest_of(name), name)
    store = CLASSES[manifest.kind](name, flag="r")
    changes: dict[str, Any] = {"opaque": True}
    if manifest.hash != "sha256":
        width = len(manifest.probes["hash"][1]) // 2
        changes["hash"] = lambda key: bytes(width)  # who goes through all keys needs to know no more of it
    if manifest.serdes.startswith("custom:"):
        changes["serdes"] = Serdes(manifest.serdes, _unable, bytes)
    if manifest.key_serdes.partition("+")[0] == CANONICAL.name:
        changes["key_serdes"] = BLIND
    elif manifest.key_serdes.startswith("custom:"):
        changes["key_serdes"] = KeyCodec(manifest.key_serdes, _unable, bytes)
    store._request = store._request._replace(**changes)
    return store


def as_lines(store: Any) -> bool:
    """Have an open set of text or bytes take its elements as bytes, and give them so; return whether it is of text.

    Text is UTF-8. Digests are made of bytes by one call, which is all that they take.
    """
    codec = store._codec
    is_text = _holds(store) == "str"
    if codec.digest is not None:
        make = codec.digest
        store._dump_key = (lambda line: make(line, digest.TEXT)) if is_text else make
    elif is_text:
        store._codec = codec = resolve_codec("bytes", PRESETS["bytes"])
        store._dump_key, store._load_key = codec.dumps, codec.loads
    return is_text


def are_lines(stores: Iterable[Any]) -> bool:
    """Have open sets, some of text and some of bytes, all give bytes, so that their lines can be compared.

    Return whether they are such sets.

    :raises Failure: one has digests of text, which cannot be made those of bytes.
    """
    sets = list(stores)
    found = {store._kind for store in sets} == {"set"} and {*map(_holds, sets)} == {"str", "bytes"}
    for store in sets if found else ():
        if store._codec.digest is None:
            as_lines(store)
        elif _holds(store) == "str":
            raise Failure(f"{store.name} has digests of text, and others have bytes: no digest of text is one of bytes")
    return found


def _holds(store: Any) -> str:
    """Return the serdes as whose keys a command line has those of an open store."""
    return written_as(store._kind, store._codec.name, store._serdes.name)


def serdes_of(store: PatientDict | PatientSet) -> tuple[str, str]:
    """Return the serdes as whose keys and values a command line has those of a store, which need not be there yet."""
    manifest = site_of(store._path).read(store._path) or Manifest.new(store._request)
    return written_as(manifest.kind, manifest.key_serdes, manifest.serdes), manifest.serdes


def manifest_of(name: str) -> Manifest:
    """:raises StoreNotFoundError: there is no such store."""
    path = absolute_path(name)
    manifest = site_of(path).read(path)
    if manifest is None:
        raise StoreNotFoundError(f"there is no store {name!r}: no {manifest_path(name)}")
    return manifest


def _unable(value: object) -> bytes:
    raise TypeError("the store was made with a function that is not Rack's")
