"""``rack repair``: salvages what is readable of a damaged store into a new one. The original is never touched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import groupby

from rack.care.alone import finish_move
from rack.care.entries import Entries, Knowledge
from rack.care.guess import guess_manifest, read_identity, shard_files
from rack.care.outcome import Report, ShardReport
from rack.care.served import file_path
from rack.codec.keys import resolve_codec
from rack.codec.serdes import MARSHAL, SerdesArgument, resolve
from rack.errors import ManifestError, RackError, StoreFullError, StoreNotFoundError, told
from rack.shard import shard_class
from rack.shard.base import IN_PLACE, STRAY, Pair, Salvaged, ShardSpec, unknown_hash
from rack.shard.problem import Problem
from rack.store import files, registry
from rack.store.lock import StoreLock
from rack.store.manifest import (
    KINDS,
    Manifest,
    Request,
    digest_of,
    manifest_path,
    new_id,
    sha256,
    shard_path,
    stem,
)
from rack.store.openstore import OpenStore
from rack.store.record import Record, copy_problem
from rack.store.taking import items_in_blocks
from rack.system.disk import path_error

_CHUNK = 1000

#: Called now and then with the entries kept so far, and about how many there are.
Progress = Callable[[int, int], object]


def repair(
    name: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    hash: Callable[[bytes], bytes] | None = None,
    serdes: SerdesArgument = None,
    key_serdes: SerdesArgument = None,
    kind: str | None = None,
    stray: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Make a new store of what can be read of a damaged one, and report what was kept and what was lost.

    The damaged store is not changed. O(n log n): every page of its files is read. Atomic: the new store is there as a
    whole when this returns, on the disk, or not at all. Who opens the damaged store meanwhile waits.

    An entry is kept if all of this is so: its page is sound and in use, it is in the shard that it belongs to, its key
    is canonical, its value matches its checksum (LMDB, over 1,500 bytes), and both can be read. Entries of pages that
    may be old, or that are damaged themselves, may be wrong, or may have been changed or deleted since. They are
    counted, and kept only with ``stray``, where nothing better was found for their keys.

    A damaged shard with a base and a journal (LMDB, durability "everysec") is made anew of these if they are sound.
    Nothing is lost then.

    :param name: the damaged store, as for :class:`rack.PersistentSet`.
    :param to: the new store. None: the name of the old one with ``-repaired``.
    :param hash: the function that the store was made with, if it is not the default.
    :param serdes: what the store was made with, if it is not a preset. If the manifest is lost, also the name of a
        preset; it is guessed from the shards if it is not given.
    :param key_serdes: as ``serdes``, for keys.
    :param kind: "dict", "set" or "queue": what the store is, if the manifest is lost. It is guessed if it is not given.
    :param stray: whether to keep entries that may be old or wrong.
    :param progress: called now and then as ``progress(kept, expected)``: how many entries are kept so far, and about
        how many there are.
    :returns: a :class:`rack.care.outcome.Report`: ``sound``, ``kept``, ``shards``, ``problems`` and more.
    :raises StoreNotFoundError: there is nothing to repair; or the directory of ``to`` does not exist.
    :raises StoreExistsError: there is a store of the new name.
    :raises StoreInUseError: a process has the damaged store open, perhaps this one.
    :raises ManifestError: a newer Rack has made the store; or the manifest is lost, and too little is left to guess it.
    :raises MismatchError: an argument is not what the store was made with.
    :raises StoreFullError: no space for the new store. It is not there.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "seen", shards=2) as seen:
    ...     seen.update(range(100))
    >>> (tmp / "seen.rack").unlink()
    >>> report = rack.repair(tmp / "seen", tmp / "seen-saved")
    >>> report.sound, report.kept, len(report.shards)
    (False, 100, 2)
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"kind={kind!r}: must be 'dict', 'set', 'queue' or None")
    path = file_path(name, "its server keeps it whole")
    finish_move(path)
    to = os.fspath(stem(os.fspath(name)) + "-repaired" if to is None else to)
    target = file_path(to, "repair to a file, and copy that there with `rack copy`")
    files.check_absent(target)
    report = Report(os.fspath(name), to)
    manifest = _manifest(path, kind, serdes, key_serdes, report)
    values = None if serdes is None else resolve(serdes)
    keys = None if key_serdes is None else resolve_codec(key_serdes, values or MARSHAL)
    knowledge = Knowledge.of(manifest, path, Request(manifest.kind, serdes=values, key_serdes=keys, hash=hash))
    if report.problems and hash is None:  # the manifest would tell
        knowledge = replace(knowledge, hash=unknown_hash)
    report.not_checked += knowledge.lacks
    new, request = _new_manifest(manifest, knowledge)
    source = files.anonymous_path(target)
    try:
        hold = registry.make(source, new, request, "process")
    except BaseException:
        files.discard(new, source)
        raise
    made = hold.opened
    try:
        with _held(path):
            record = Record.read(path)
            durability = record.durability
            if record.is_of_earlier_boot():
                is_journalled = record.durability == "everysec"
                report.problems.append(
                    f"{name} was in use when the system stopped: what its shards hold may be of different moments"
                    + (" (opening it rebuilds it from its journals: try that first)" if is_journalled else "")
                )
            copied = copy_problem(path, manifest, record)
            if copied is not None:
                report.problems.append(f"{name} {copied}")
            _Repair(path, manifest, knowledge, made, report, record, stray, progress).run()
        made.sync(made.store(made.mode))
    except BaseException:
        registry.remove(hold)
        raise
    registry.release(hold)
    registry.publish(new, source, target, durability)
    return report


@contextmanager
def _held(path: str) -> Iterator[None]:
    """Keep the damaged store from being opened while the block runs.

    The registry must not be used meanwhile: a thread of this process that opens the store has the registry's lock, and
    waits for this one.
    """
    lock = StoreLock(path, readonly=True)
    try:
        if os.path.lexists(lock.path):
            lock.claim_or_raise("repair the store")
        yield
    finally:
        lock.close()


def _manifest(path: str, kind: str | None, serdes: object, key_serdes: object, report: Report) -> Manifest:
    try:
        if (found := Manifest.read(path)) is not None:
            return found
        if not shard_files(path):
            raise StoreNotFoundError(f"there is no store {path}: no {manifest_path(path)}, and no shards")
        report.problems.append(f"{manifest_path(path)} is missing")
    except ManifestError as error:
        if error.newer:
            raise
        report.problems.append(str(error))
    values = None if serdes is None else resolve(serdes).name
    codec = None if key_serdes is None else resolve_codec(key_serdes, MARSHAL)
    keys = None if codec is None else codec.preset or codec.name
    manifest, may_be_digests = guess_manifest(path, kind, values, keys)
    report.problems.append(
        f"so it is taken for a {manifest.kind} of {manifest.shards} shards, with the serdes {manifest.serdes} and the"
        f" key serdes {manifest.key_serdes}"
    )
    if may_be_digests:
        report.problems.append(
            "all its keys are of one size, as digests are: if it had these, repair it with their key serdes"
        )
    return manifest


def _new_manifest(manifest: Manifest, knowledge: Knowledge) -> tuple[Manifest, Request]:
    """Return the manifest of the new store: as the old one's, but for a hash that is not at hand."""
    new = manifest._replace(id=new_id())
    if knowledge.hash is not unknown_hash:
        return new, Request(manifest.kind, hash=knowledge.hash)
    probe = [manifest.probes["hash"][0], digest_of(sha256).hex()]
    return new._replace(hash="sha256", probes=new.probes | {"hash": probe}), Request(manifest.kind)


class _Repair:
    def __init__(
        self,
        path: str,
        manifest: Manifest,
        knowledge: Knowledge,
        made: OpenStore,
        report: Report,
        record: Record,
        stray: bool,
        progress: Progress | None,
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._request = Request(manifest.kind, hash=knowledge.hash)
        self._entries = Entries(manifest.kind, manifest.shards, knowledge)
        self._engine = shard_class(manifest.engine)
        self._new = made.store(made.mode)
        self._remade = made.path + "-remade"  # of a shard that has a journal, for a while
        self._report = report
        # Whether what the files of shards hold may be of different moments.
        self._is_stale = record.is_of_earlier_boot() or copy_problem(path, manifest, record) is not None
        self._is_journalled = record.durability == "everysec"  # else what journals there are may be left over
        self._stray = stray
        self._progress = progress
        self._expected = 0

    def run(self) -> None:
        sources = self._sources()
        for number in range(self._manifest.shards):
            spec = self._manifest.spec(self._path, number, self._request, "process", True)
            shard = ShardReport(number, spec.path)
            self._report.shards.append(shard)
            source = sources.get(number)
            if source is None:
                shard.add("is lost: there is no file that is this shard")
            elif source != spec.path:
                shard.add(f"is in the file {source}")
            try:
                self._shard(shard, spec, source)
            finally:
                files.unlink([self._remade])

    def _shard(self, shard: ShardReport, spec: ShardSpec, source: str | None) -> None:
        """Keep what is in a shard's file, or what its journal says where that is better."""
        is_whole = self._remake(shard, spec)  # None: there is no journal
        damage = None if is_whole is None else self._damage(shard, spec, source)
        if damage and (is_whole or self._is_stale):
            shard.add_all(damage)
            shard.add("is made anew of its base and its journal")
            self._keep(shard, self._salvaged(spec, self._remade))
            return
        if source is not None:
            self._keep(shard, self._salvaged(spec, source))
        if damage:
            shard.add("has a journal that breaks off: what that says may be old")
            self._keep(shard, _as_strays(self._salvaged(spec, self._remade)))

    def _remake(self, shard: ShardReport, spec: ShardSpec) -> bool | None:
        if not self._is_journalled:
            return None
        try:
            return self._engine.remake(spec, self._remade)
        except OSError as error:
            full = path_error(error, self._remade)
            if isinstance(full, StoreFullError):
                raise full from error
            shard.add(f"has a journal that is of no use: {told(error)}")
            return None

    def _damage(self, shard: ShardReport, spec: ShardSpec, source: str | None) -> ShardReport | None:
        """Return what is wrong with a shard's file, None if nothing is."""
        if source is None:
            return ShardReport(shard.number, spec.path)
        found = ShardReport(shard.number, spec.path)
        for _ in self._good(found, self._salvaged(spec, source)):
            pass
        self._expected -= found.counted or 0
        return found if found.found or self._is_stale else None

    def _salvaged(self, spec: ShardSpec, path: str) -> Salvaged:
        return self._engine.salvage(spec._replace(path=path))

    def _sources(self) -> dict[int, str]:
        """Return in which file each shard is: by its name, or by what it says of itself if the names are wrong."""
        suffix = shard_class(self._manifest.engine).suffix
        sources: dict[int, str] = {}
        moved: list[tuple[int, str]] = []
        for engine, number, path in shard_files(self._path):
            if engine != self._manifest.engine:
                continue
            try:
                identity = read_identity(path)
            except OSError as error:
                self._report.problems.append(f"{path} cannot be read: {error.strerror}")
                continue
            if identity is not None and identity.store_id != self._manifest.id:
                self._report.problems.append(f"{path} belongs to another store ({identity.store_id}): it is left out")
            elif number >= self._manifest.shards:
                self._report.problems.append(f"{path} is not one of the {self._manifest.shards} shards of the store")
            elif identity is None or identity.number == number:
                sources[number] = path
            else:
                moved.append((identity.number, path))
        claims = Counter(number for number, _ in moved)
        for number, path in moved:
            home = shard_path(self._path, number, suffix)
            if number in sources or claims[number] > 1 or number >= self._manifest.shards:
                self._report.problems.append(f"{path} says that it is shard {number}, as {home} does: it is left out")
            else:
                sources[number] = path
        return sources

    def _keep(self, shard: ShardReport, items: Salvaged) -> None:
        with closing(items):  # type: ignore[type-var]
            for sure, blocks in groupby(self._good(shard, items), key=lambda found: found[0]):
                pairs = (pair for _, block in blocks for pair in block)
                if sure == IN_PLACE:
                    self._new.put_all(items_in_blocks(self._counting(shard, pairs)))
                elif sure != STRAY or self._stray:
                    added = self._new.add_all(items_in_blocks(pairs))
                    shard.kept += added
                    if sure == STRAY:
                        shard.strays += added
                        shard.strays_kept += added
                else:
                    shard.strays += sum(not self._new.route(key).contains(key) for key, _ in pairs)

    def _counting(self, shard: ShardReport, pairs: Iterator[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            shard.kept += 1
            if self._progress is not None and not shard.kept % _CHUNK:
                shards = self._manifest.shards
                self._progress(self._report.kept, self._expected * shards // (shard.number + 1))
            yield pair

    def _good(self, shard: ShardReport, items: Salvaged) -> Iterator[tuple[int, list[Pair]]]:
        """Yield the entries that may be kept, each block with how sure it is; report what is wrong."""
        for item in _to_its_end(items):
            if isinstance(item, int):
                shard.counted = (shard.counted or 0) + item
                self._expected += item
            elif isinstance(item, Problem):
                shard.add(item.message)
            else:
                sure, block = item
                good = []
                for pair in block:
                    problems = list(self._entries.problems(shard.number, [pair]))
                    if not problems:
                        good.append(pair)
                    elif sure != STRAY:
                        shard.refused += 1
                        shard.add(problems[0].message)
                if good:
                    yield sure, good


def _to_its_end(items: Salvaged) -> Salvaged:
    """Yield the items; that a disk cannot be read is a problem of the shard, too."""
    try:
        yield from items
    except OSError as error:
        if isinstance(error, RackError):
            raise
        yield Problem("structure", f"cannot be read to its end: {error.strerror}")


def _as_strays(items: Salvaged) -> Salvaged:
    """Yield entries as such that may be old."""
    return ((STRAY, item[1]) for item in items if isinstance(item, tuple))
