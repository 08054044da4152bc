"""``NAME.rack``: what a store is, in JSON. A store without it does not exist.

It is written first as ``NAME.rack-new`` and renamed when every shard is there. A store of which there is only that is
being made or removed; if nobody has the store's lock, whoever did that was killed, and what is there may be removed.
``NAME.rack`` never changes, so a process that has read it once knows the store.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from rack.codec import digest
from rack.codec.keys import CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import MARSHAL, PRESETS, Serdes
from rack.errors import ManifestError, MismatchError, told
from rack.shard import DEFAULT_ENGINE, ENGINES, SERVED, address_of, served_by, shard_class
from rack.shard.address import Address
from rack.shard.base import ShardSpec
from rack.store.router import Digest, digest_of_kind
from rack.system.disk import path_error, sync_directory
from rack.system.imports import importing

FORMAT = 1
#: The kinds of stores, and the classes that open them.
KINDS = {"dict": "PersistentDict", "set": "PersistentSet", "queue": "PersistentQueue"}
DEFAULT_SHARDS = 16
MAX_SHARDS = 9999
_HASH_PROBE = b"rack"


_sha256: Any = None


def sha256(data: bytes) -> bytes:
    """The default ``hash``: SHA-256 (FIPS 180-4)."""
    global _sha256
    if _sha256 is None:
        with importing():
            import hashlib
        _sha256 = hashlib.sha256
    return _sha256(data).digest()  # type: ignore[no-any-return]


class Request(NamedTuple):
    """What a container asks of its store. None: whatever the store has, or the default for a new one."""

    kind: str
    engine: str | None = None
    shards: int | None = None
    serdes: Serdes | None = None
    key_serdes: KeyCodec | None = None
    hash: Callable[[bytes], bytes] | None = None
    layout: str | None = None
    opaque: bool = False  # whatever the serdes and the hash are: stored bytes are not to be understood


class Manifest(NamedTuple):
    """The content of a manifest file. ``probes`` tell serializers and hashes of the user apart (bytes in hex)."""

    kind: str
    engine: str
    shards: int
    serdes: str
    key_serdes: str
    hash: str
    layout: str
    probes: dict[str, list[str]]
    id: str
    format: int = FORMAT

    @classmethod
    def new(cls, request: Request) -> Manifest:
        serdes = request.serdes or MARSHAL
        codec = request.key_serdes or resolve_codec(None, serdes, request.kind == "set")
        hash = request.hash or sha256
        probes = {"hash": [_HASH_PROBE.hex(), digest_of(hash).hex()]}
        for name, probe in (("serdes", serdes.probe), ("key_serdes", codec.probe)):
            if probe is not None:
                probes[name] = [marshal.dumps(probe[0]).hex(), probe[1].hex()]
        return cls(
            kind=request.kind,
            engine=request.engine or DEFAULT_ENGINE,
            shards=request.shards or DEFAULT_SHARDS,
            serdes=serdes.name,
            key_serdes=codec.name,
            hash="sha256" if hash is sha256 else getattr(hash, "__qualname__", type(hash).__qualname__),
            layout=request.layout or "direct",
            probes=probes,
            id=new_id(),
        )

    @classmethod
    def read(cls, path: str) -> Manifest | None:
        """Read the manifest of the store at ``path``; None: there is none, and so no store.

        :raises ManifestError: it is damaged, or of a newer Rack.
        :raises StorePathError: it cannot be read.
        """
        return cls.read_file(manifest_path(path))

    @classmethod
    def read_unfinished(cls, path: str) -> Manifest | None:
        """Read the manifest of the store that is, or was, being made at ``path``; None if there is no (whole) one."""
        try:
            return cls.read_file(unfinished_path(path))
        except ManifestError:
            return None

    @classmethod
    def read_file(cls, file: str) -> Manifest | None:
        """As :meth:`read`, whatever the file's name is."""
        try:
            with open(file, "rb") as stream:
                data = stream.read(1 << 20)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise path_error(error, file) from error
        return cls.parse(data, file)

    @classmethod
    def parse(cls, data: bytes, file: str) -> Manifest:
        """Return the manifest that some bytes are; ``file`` tells where they come from."""
        with importing():
            import json

        try:
            content = json.loads(data)
            newer = content["format"] > FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{file} is not a Rack manifest ({told(error)}); {_advice(file)}") from error
        if newer:
            too_new = ManifestError(
                f"{file} has format {content['format']}; this Rack reads up to {FORMAT}. Upgrade with"
                " `pip install --upgrade rack`"
            )
            too_new.newer = True
            raise too_new
        for name, is_right in _FIELDS.items():
            if name not in content or not is_right(content[name]):
                found = repr(content[name]) if name in content else "missing"
                raise ManifestError(f"{file}: {name} is {found}, which is not right; {_advice(file)}")
        if unknown := content.keys() - _FIELDS.keys():
            raise ManifestError(f"{file}: {', '.join(sorted(unknown))}: not known; {_advice(file)}")
        return cls(**content)

    def begin(self, path: str) -> None:
        """Put down, on the disk, that the store is being made. Whoever has the lock may remove it while it is so."""
        with importing():
            import json

        with open(unfinished_path(path), "w") as stream:
            json.dump(self._asdict(), stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        sync_directory(os.path.dirname(path))

    def finish(self, path: str) -> None:
        """Turn the store that was being made into one that is there."""
        sync_directory(os.path.dirname(path))
        os.rename(unfinished_path(path), manifest_path(path))
        sync_directory(os.path.dirname(path))

    def take_back(self, path: str) -> None:
        """Turn the store at ``path`` into one that is being made: the first step of replacing it."""
        os.rename(manifest_path(path), unfinished_path(path))
        sync_directory(os.path.dirname(path))

    def reconcile(self, request: Request, path: str) -> None:
        """Raise MismatchError if the request contradicts the manifest."""
        where = manifest_path(path)
        if request.kind != self.kind:
            raise MismatchError(f"{where} is a {self.kind}: open it as {KINDS[self.kind]}").in_words(
                f"{where} is a {self.kind}, and not a {request.kind}"
            )
        for name in ("engine", "shards", "layout"):
            asked = getattr(request, name)
            if asked is None or asked == getattr(self, name):
                continue
            mine = getattr(self, name)
            if name == "layout":
                hint = "rack.set_small and rack.set differ in this, and on a server the URL's `layout=`"
            else:
                hint = f"`rack copy {_quoted(path)} NEW --{name} {asked}` makes a copy with it"
            raise MismatchError(f"{name}={asked!r} was given, but {where} has {name}={mine!r}; {hint}").in_words(
                f"{where} has {f'{mine} shards' if name == 'shards' else f'the {name} {mine}'}, and not {asked}; {hint}"
            )
        if request.opaque:
            return
        for name, given in (("serdes", request.serdes), ("key_serdes", request.key_serdes)):
            self.reconcile_serdes(name, given, where)
        self.reconcile_hash(request, where)

    def reconcile_hash(self, request: Request, where: str) -> None:
        if request.hash is not None or self.hash != "sha256":
            digest = digest_of(request.hash or sha256).hex()
            if digest != self.probes["hash"][1]:
                raise MismatchError(
                    f"hash={'None (sha256)' if request.hash is None else request.hash!r} was given, but {where} was"
                    f" made with hash={self.hash}: they differ on {_HASH_PROBE!r}"
                ).in_words(f"{where} was made with the hash {self.hash}, which is not Rack's")

    def reconcile_serdes(self, name: str, given: Serdes | KeyCodec | None, where: str) -> None:
        recorded: str = getattr(self, name)
        probe = self.probes.get(name)
        if given is None:
            if recorded.startswith("custom:"):
                raise MismatchError(
                    f"{where} was made with {name}={recorded[7:]}, which is not Rack's: give it too"
                ).in_words(f"{where} was made with the {_title(name)} {recorded[7:]}, which is not Rack's")
            return
        if probe is None or given.probe is None:
            if given.name != recorded:
                raise MismatchError(f"{name}={given.name!r} was given, but {where} has {name}={recorded!r}").in_words(
                    f"{where} has the {_title(name)} {recorded}, and not {given.name}"
                )
            return
        value, data = marshal.loads(bytes.fromhex(probe[0])), bytes.fromhex(probe[1])
        Serdes(given.name, bytes, given.loads).check_reads((value, data))

    def codecs(self, request: Request) -> tuple[KeyCodec, Serdes]:
        """Return the key codec and the values' serializer of the store, once reconciled with the request."""
        serdes = request.serdes or PRESETS[self.serdes]
        if request.key_serdes is not None:
            return request.key_serdes, serdes
        if self.key_serdes == CANONICAL.name:
            return CANONICAL, serdes
        preset = self.key_serdes if self.key_serdes in PRESETS or digest.is_normal(self.key_serdes) else None
        return resolve_codec(preset, serdes, self.kind == "set"), serdes

    def spec(
        self,
        path: str,
        number: int,
        request: Request,
        durability: str,
        readonly: bool,
        timeout: float | None = None,
        where: Callable[[], str] | None = None,
    ) -> ShardSpec:
        """Return what shard ``number`` of the store is. ``where`` tells at which path the store is now."""
        suffix = shard_class(self.engine).suffix
        return ShardSpec(
            path=shard_path(path, number, suffix),
            store_id=self.id,
            number=number,
            layout=self.layout,
            hash=request.hash or sha256,
            durability=durability,
            readonly=readonly,
            timeout=timeout,
            find=None if where is None else lambda: shard_path(where(), number, suffix),
        )

    @property
    def digest(self) -> Digest:
        """What hashes the store's keys, so that they are routed to its shards."""
        return digest_of_kind(self.kind)

    def shard_files(self, path: str) -> list[str]:
        """Return every file of every shard."""
        cls = shard_class(self.engine)
        shards = (shard_path(path, number, cls.suffix) for number in range(self.shards))
        return [file for shard in shards for file in cls.files(shard)]

    def files(self, path: str) -> list[str]:
        """Return every file of the store, its mark in the file system first."""
        return [manifest_path(path), unfinished_path(path), *self.content_files(path)]

    def content_files(self, path: str) -> list[str]:
        """Return every file of the store but its mark, and its lock."""
        return [record_path(path), backup_path(path), *self.shard_files(path)]


def absolute_path(name: str | os.PathLike[str]) -> str:
    """Return where the store of that name is: a path, or the address of one on a server.

    The name of its manifest means it too.
    """
    path = os.fspath(name)
    if not isinstance(path, str):
        raise TypeError(f"name={name!r}: must be str or a path of str")
    if served_by(path) is not None:
        return address_of(path)
    problem = name_problem(path)
    if problem is not None:
        raise ValueError(f"name={path!r}: {problem}")
    return os.path.abspath(stem(path))


def stem(name: str) -> str:
    """Return the name of a store for that, or for the name of its manifest. No store's name ends as that does."""
    while name.endswith(".rack"):
        name = name.removesuffix(".rack")
    return name


def name_problem(name: str) -> str | None:
    """Return why a store cannot have that name."""
    if os.path.basename(stem(name)) in ("", ".", ".."):
        return "must be the prefix of the files to make, like 'data/seen', not a directory"
    if "\0" in name:
        return "must not contain a NUL"
    return None


def _title(argument: str) -> str:
    return argument.replace("_", " ")


def new_id() -> str:
    """Return an id for a new store: 128 random bits, in hex."""
    return os.urandom(16).hex()


def _advice(file: str) -> str:
    name = _quoted(file.rpartition(".")[0])
    return f"restore it from a copy, or make a new store of the shards: `rack repair {name}`"


def _quoted(path: str) -> str:
    """Return a path as it is written in a shell."""
    with importing():
        import shlex

    return shlex.quote(path)


def manifest_path(path: str) -> str:
    return path if isinstance(path, Address) else path + ".rack"


def unfinished_path(path: str) -> str:
    return path + ".rack-new"


def moved_path(path: str) -> str:
    """Return where the manifest is of a store that is being moved to ``path`` (:mod:`rack.store.moving`)."""
    return path + ".rack-moved"


def old_path(path: str) -> str:
    """Return where the manifest is of the store that another one is to replace."""
    return path + ".rack-old"


def is_half_moved(path: str) -> bool:
    """Return whether a process that moved a store to ``path`` was killed, where there is no manifest."""
    return os.path.lexists(moved_path(path)) or os.path.lexists(old_path(path))


def record_path(path: str) -> str:
    return path + ".rack-boot"


def backup_path(path: str) -> str:
    """Return the file that says of what a backup is one (:mod:`rack.care.increments`)."""
    return path + ".rack-backup"


def shard_path(path: str, number: int, suffix: str) -> str:
    return f"{path}-{number:04d}{suffix}"


def digest_of(hash: Callable[[bytes], bytes]) -> bytes:
    """Return the hash's digest of a fixed probe.

    :raises TypeError: the hash does not turn bytes into at most 255 bytes.
    """
    digest = hash(_HASH_PROBE)
    if not isinstance(digest, bytes) or len(digest) > 255 or len(hash(b"")) != len(digest):
        raise TypeError(f"hash= must turn bytes into bytes, always as many and at most 255; it gave {digest!r}")
    return digest


def _is_codec(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return name == CANONICAL.name or name in PRESETS or "custom:" in name or digest.is_normal(name)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: value == FORMAT,
    "id": lambda value: isinstance(value, str) and len(value) == 32,
    "kind": lambda value: value in KINDS,
    "engine": lambda value: isinstance(value, str) and (value in ENGINES or value in SERVED),
    "shards": lambda value: type(value) is int and 1 <= value <= MAX_SHARDS,
    "layout": lambda value: value in ("direct", "small", "ordered", "packed"),
    "serdes": lambda value: isinstance(value, str) and (value in PRESETS or value.startswith("custom:")),
    "key_serdes": _is_codec,
    "hash": lambda value: isinstance(value, str),
    "probes": lambda value: isinstance(value, dict) and all(map(_is_probe, value.values())) and "hash" in value,
}


def _is_probe(probe: object) -> bool:
    if not (isinstance(probe, list) and len(probe) == 2 and all(isinstance(part, str) for part in probe)):
        return False
    try:
        return all(bytes.fromhex(part) is not None for part in probe)
    except ValueError:
        return False
