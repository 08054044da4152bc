"""What every entry of a store has to be: in its shard, its key canonical, both parts readable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

from rack.care.jobs import job_problems
from rack.codec import digest
from rack.codec.canonical import is_read
from rack.codec.failure import is_damage
from rack.codec.keys import BLIND, CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import MARSHAL, PRESETS
from rack.errors import DeserializationError, RackError, told
from rack.shard.base import Pair, unknown_hash
from rack.shard.problem import Problem, corrupt
from rack.store.manifest import Manifest, Request, digest_of, manifest_path, sha256
from rack.store.router import digest_of_kind, router
from rack.system.imports import importing


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is at hand of the functions that made a store. None: that is not, and what it made cannot be checked."""

    codec: KeyCodec | None
    load: Callable[[bytes], Any] | None
    hash: Callable[[bytes], bytes] = sha256
    #: In words, what cannot be checked and why.
    lacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, path: str, request: Request) -> Self:
        """Return what is known of a store: what its manifest says, and what the request gives.

        Pickles, and keys that take classes of the program's, are only looked at: who has the classes gives the serdes.

        :raises MismatchError: the request gives another function than the store was made with.
        """
        lacks = []

        def lack(what: str, argument: str, name: str) -> None:
            lacks.append(f"{what}: that takes the {argument} {name.removeprefix('custom:')}, which is not Rack's")

        for name, given in (("serdes", request.serdes), ("key_serdes", request.key_serdes)):
            if given is not None:
                manifest.reconcile_serdes(name, given, manifest_path(path))
        serdes = request.serdes or PRESETS.get(manifest.serdes)
        load = None if serdes is None else serdes.loads
        if request.serdes is None and manifest.serdes == "pickle":
            with importing():
                from rack.codec import blind

            load = blind.loads
        if load is None and manifest.kind != "set":
            lack("whether values can be read", "serdes", manifest.serdes)

        kind, _, custom = manifest.key_serdes.partition("+")
        codec: KeyCodec | None
        if request.key_serdes is not None:
            codec = request.key_serdes
        elif kind == CANONICAL.name:
            codec = BLIND if request.serdes is None else CANONICAL
            if custom and request.serdes is not None:
                codec = resolve_codec(None, request.serdes, manifest.kind == "set")
        elif kind in PRESETS or digest.is_normal(kind):
            codec = resolve_codec(kind, MARSHAL)
        else:
            codec = None
            lack("whether keys can be read", "key serdes", manifest.key_serdes)

        hash = request.hash or sha256
        if digest_of(hash).hex() != manifest.probes["hash"][1]:
            if request.hash is not None:
                manifest.reconcile(Request(manifest.kind, hash=hash), path)  # which raises
            hash = unknown_hash
            lack("whether long keys are in their places", "hash", manifest.hash)
        return cls(codec, load, hash, tuple(lacks))


def check_shard(container: Any, number: int, report: Callable[[int], object]) -> int:
    """Go over all of a shard of an open container; return how many entries it has.

    :raises CorruptShardError, DeserializationError: with the first thing that is wrong.
    """
    shards = container._store.shards
    shard = shards[number]
    knowledge = Knowledge(container._codec, container._serdes.loads)
    entries = Entries(container._manifest.kind, len(shards), knowledge)
    with closing(shard.examine()) as items:
        for item in items:
            if isinstance(item, Problem):
                raise corrupt(shard.path, item.message)
            if isinstance(item, list):
                for problem in entries.problems(number, item):
                    raise _error(shard.path, problem)
                report(len(item))
    return entries.seen


def _error(path: str, problem: Problem) -> RackError:
    if problem.kind in ("key", "value"):
        return DeserializationError(f"{path} {problem.message}")
    return corrupt(path, problem.message)


class Entries:
    """What holds of every entry of a store."""

    def __init__(self, kind: str, shards: int, knowledge: Knowledge) -> None:
        self._codec = knowledge.codec
        self._load = knowledge.load
        self._is_set, self._is_queue = kind == "set", kind == "queue"
        self._shard_of = router(range(shards), digest_of_kind(kind))
        self.seen = 0
        self.left_out = 0

    def problems(self, number: int, block: list[Pair]) -> Iterator[Problem]:
        self.seen += len(block)
        shard_of, codec, load = self._shard_of, self._codec, self._load
        for key, value in block:
            if shard_of(key) != number:
                yield Problem("shard", f"has the key {key[:60]!r}, which belongs to shard {shard_of(key)}")
            if self._is_queue:
                yield from job_problems(key, value, codec, load)
                continue
            if codec is not None:
                try:
                    found = codec.loads(key)
                    canonical = codec.dumps(found)
                except Exception as error:
                    if not is_damage(error):
                        raise
                    yield Problem("key", f"has a key that cannot be read ({told(error)}): {key[:60]!r}")
                else:
                    if canonical != key:
                        yield Problem("key", f"has a key that is not in its canonical form: {key[:60]!r}")
                    elif codec is BLIND and not is_read(found):
                        self.left_out += 1
            if self._is_set:
                if value:
                    yield Problem("record", f"has a value beside an element of a set, {key[:60]!r}")
            elif load is not None:
                try:
                    load(value)
                except Exception as error:
                    if not is_damage(error):
                        raise
                    yield Problem(
                        "value", f"has a value that cannot be read ({told(error)}): {value[:60]!r}, of {key[:60]!r}"
                    )
