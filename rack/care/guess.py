"""What a store is, from its shards alone: for one whose manifest is lost."""

from __future__ import annotations

import io
import marshal
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rack.codec import digest
from rack.codec.failure import is_damage
from rack.codec.keys import BLIND, CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import PRESETS
from rack.errors import ManifestError
from rack.jobs.records import NO_KEY, Job, problem_of
from rack.shard import ENGINES, shard_class
from rack.shard.base import Pair, ShardSpec, unknown_hash
from rack.store.manifest import MAX_SHARDS, Manifest, Request, shard_path
from rack.store.router import Digest, digest_of_kind, router
from rack.system.imports import importing

_SAMPLE = 500  # entries of each shard that are looked at
_IDENTITY = re.compile(rb"rack-shard-1 ([0-9a-f]{32}) (\d{1,4})(?: (direct|small))?")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What a shard's file says of itself."""

    store_id: str
    number: int
    layout: str


def read_identity(path: str) -> Identity | None:
    """Return the identity that a shard's file carries somewhere, however damaged it is; None if there is none."""
    found: Counter[Identity] = Counter()
    for file in (path, path + "-wal"):
        if os.path.exists(file):
            with open(file, "rb") as stream:
                tail = b""
                while block := stream.read(_BLOCK):
                    data = tail + block
                    for match in _IDENTITY.finditer(data):
                        store_id, number, layout = match.groups(b"direct")
                        found[Identity(store_id.decode(), int(number), layout.decode())] += 1
                    if found:
                        return found.most_common(1)[0][0]
                    tail = data[-64:]
    return None


def shard_files(path: str) -> list[tuple[str, int, str]]:
    """Return the files that are shards by their names, as (engine, number, path)."""
    found = []
    for engine in ENGINES:  # 20 ms; in a folder of many other files, listing it would take longer
        suffix = shard_class(engine).suffix
        names = ((number, shard_path(path, number, suffix)) for number in range(MAX_SHARDS + 1))
        found += [(engine, number, name) for number, name in names if os.path.lexists(name)]
    return sorted(found)


def guess_manifest(path: str, kind: str | None, serdes: str | None, key_serdes: str | None) -> tuple[Manifest, bool]:
    """Return a manifest for the shards at ``path``; ``None`` is guessed from what the shards hold.

    Digests look like any other bytes: return also whether what is taken for bytes may be digests.

    :raises ManifestError: there is too little to go by.
    """
    for argument in (serdes, None if digest.is_normal(key_serdes) else key_serdes):
        if argument is not None and argument not in PRESETS:
            raise ManifestError(
                f"serdes {argument!r} is no preset: without its manifest the store cannot be read with it"
            )
    files = shard_files(path)
    engines = Counter(engine for engine, _, _ in files)
    if not engines:
        raise ManifestError(f"there are no shards of a store {path}")
    engine = engines.most_common(1)[0][0]
    numbers = [number for of, number, _ in files if of == engine]
    suffix = shard_class(engine).suffix
    identities = [read_identity(shard_path(path, number, suffix)) for number in numbers]
    known = [identity for identity in identities if identity is not None]
    if not known:
        raise ManifestError(f"no shard at {path} says of which store it is")
    store_id = Counter(identity.store_id for identity in known).most_common(1)[0][0]
    samples: dict[int, list[Pair]] = {}
    for number, identity in zip(numbers, identities, strict=True):
        if identity is None or (identity.store_id, identity.number) == (store_id, number):
            layout = known[0].layout
            spec = ShardSpec(shard_path(path, number, suffix), store_id, number, layout, unknown_hash, "process", True)
            samples[number] = _sample(engine, spec)
    pairs = [pair for sample in samples.values() for pair in sample]
    jobs = [problem_of(*pair) for pair in pairs]
    if kind is None and pairs and not any(isinstance(job, str) for job in jobs):
        kind = "queue"
    if kind is None:
        if not pairs:
            raise ManifestError(f"the shards at {path} hold nothing that tells a dict from a set: give the kind")
        kind = "dict" if any(value for _, value in pairs) else "set"
    keys = [key for key, _ in pairs]
    values = [value for _, value in pairs]
    if kind == "queue":
        keys = [job.key for job in jobs if isinstance(job, Job) and job.memory != NO_KEY]
        values = [job.item for job in jobs if isinstance(job, Job)]
    if serdes is not None and key_serdes is None and _all_read(resolve_codec(None, PRESETS[serdes]), keys):
        key_serdes = serdes  # what it is where only the serdes was given when the store was made
    is_serdes_given = serdes is not None
    serdes = serdes or _guess_serdes(keys if kind == "set" else values, kind)
    key_serdes = key_serdes or _guess_key_serdes(keys, serdes)
    if kind == "set" and not is_serdes_given and key_serdes in ("str", "bytes", "ordered"):
        serdes = key_serdes  # as it is made: PersistentSet(name, serdes="bytes")
    preset = PRESETS[serdes]
    codec = resolve_codec(key_serdes, preset)
    shards = _guess_shards(samples, digest_of_kind(kind))
    request = Request(kind, engine, shards, preset, codec, None, layout)
    manifest = Manifest.new(request)
    return manifest._replace(id=store_id), key_serdes == "bytes" and _may_be_digests(keys)


def _sample(engine: str, spec: ShardSpec) -> list[Pair]:
    sample: list[Pair] = []
    for item in shard_class(engine).salvage(spec):
        if isinstance(item, tuple):
            sample += item[1]
            if len(sample) >= _SAMPLE:
                break
    return sample[:_SAMPLE]


def _guess_shards(samples: dict[int, list[Pair]], key_digest: Digest) -> int:
    """Return with how many shards every key is where it is."""
    for count in range(max(samples) + 1, MAX_SHARDS + 1):
        shard_of = router(range(count), key_digest)
        if all(shard_of(key) == number for number, sample in samples.items() for key, _ in sample):
            return count
    raise ManifestError("the keys are in no order of shards that there could be")


def _guess_serdes(stored: list[bytes], kind: str) -> str:
    readers: dict[str, Callable[[bytes], Any]] = {"pickle": _whole_pickle, "marshal": _whole_marshal}
    if kind != "set":
        readers |= {"json": PRESETS["json"].loads, "str": PRESETS["str"].loads}
    for name, read in readers.items():
        if stored and all(_reads(read, data) for data in stored):
            return name
    return "marshal" if kind == "set" or not stored else "bytes"


def _guess_key_serdes(keys: list[bytes], serdes: str) -> str:
    for name in (serdes, "marshal", "ordered", "str"):
        codec = resolve_codec(name, PRESETS[serdes])
        if codec is CANONICAL:
            codec = BLIND
        if name not in ("str", "bytes") and _all_read(codec, keys):
            return name
    return "str" if all(_reads(PRESETS["str"].loads, key) for key in keys) else "bytes"


def _may_be_digests(keys: list[bytes]) -> bool:
    sizes = set(map(len, keys))
    return len(sizes) == 1 and digest.SIZE <= sizes.pop() <= digest.MOST


def _all_read(codec: KeyCodec, keys: list[bytes]) -> bool:
    return all(_reads(partial(_same, codec), key) for key in keys)


def _same(codec: KeyCodec, key: bytes) -> None:
    if codec.dumps(codec.loads(key)) != key:
        raise ValueError


def _reads(read: Callable[[bytes], Any], data: bytes) -> bool:
    try:
        read(data)
    except Exception as error:
        if not is_damage(error):
            raise
        return False
    return True


def _whole_pickle(data: bytes) -> None:
    if not data.startswith(b"\x80"):
        raise ValueError
    with importing():
        from rack.codec import blind

    blind.loads(data)


def _whole_marshal(data: bytes) -> None:
    stream = io.BytesIO(data)
    marshal.load(stream)
    if stream.read(1):
        raise ValueError
