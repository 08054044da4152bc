"""``rack verify``: goes over a store that need not be openable, reports everything that is wrong, changes no file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from rack import registry
from rack.boot import Record, read_stamps
from rack.entries import Entries, Knowledge
from rack.errors import CorruptShardError, ManifestError, RackError, StoreNotFoundError
from rack.guess import shard_files
from rack.keys import resolve_codec
from rack.lockfile import StoreLock
from rack.manifest import Manifest, Request, manifest_path, shard_path, unfinished_path
from rack.serdes import MARSHAL, SerdesArgument, resolve
from rack.shard import shard_class
from rack.shard.base import Examined, ShardSpec
from rack.shard.problem import Problem

_LISTED = 20  # findings of one kind in one shard; the others are counted

#: Called now and then with the shards done, the shards there are, the entries seen and about how many there are.
Progress = Callable[[int, int, int, int], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. ``shard`` is None for the store as a whole; ``kind`` is one of ``problem.KINDS``."""

    shard: int | None
    kind: str
    message: str


@dataclass
class Report:
    """What :func:`verify` has found."""

    name: str
    manifest: Manifest | None = None
    findings: list[Finding] = field(default_factory=list)
    #: How many findings there are, also those that are not listed because there are many of a kind.
    found: int = 0
    entries: int = 0
    #: The shards that other processes had open: they were examined in one state, as it was at some moment.
    in_use: list[int] = field(default_factory=list)
    #: What was left out, in words, and is no cause for concern.
    not_checked: list[str] = field(default_factory=list)
    #: Why shards could not be examined, in words.
    unexamined: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all was examined and nothing is wrong."""
        return not self.found and not self.unexamined

    def file(self, finding: Finding) -> str:
        """Return the file that a finding is about."""
        path = os.path.abspath(self.name)
        if finding.shard is None or self.manifest is None:
            return manifest_path(path)
        return shard_path(path, finding.shard, shard_class(self.manifest.engine).suffix)

    def as_dict(self) -> dict[str, object]:
        """Return the report as ``rack verify --json`` prints it."""
        findings = [
            {"shard": finding.shard, "file": self.file(finding), "kind": finding.kind, "message": finding.message}
            for finding in self.findings
        ]
        return {
            "name": self.name,
            "sound": self.sound,
            "entries": self.entries,
            "found": self.found,
            "findings": findings,
            "in_use": self.in_use,
            "not_checked": self.not_checked,
            "unexamined": self.unexamined,
        }

    def add(self, findings: Iterable[Finding]) -> None:
        counts = Counter((finding.shard, finding.kind) for finding in self.findings)
        for finding in findings:
            self.found += 1
            counts[finding.shard, finding.kind] += 1
            if counts[finding.shard, finding.kind] <= _LISTED:
                self.findings.append(finding)


def verify(
    name: str | os.PathLike[str],
    *,
    hash: Callable[[bytes], bytes] | None = None,
    serdes: SerdesArgument = None,
    key_serdes: SerdesArgument = None,
    progress: Progress | None = None,
) -> Report:
    """Go over all of a store and report everything that is wrong with it. No file of the store is made or changed.

    Reads every byte in use once, in memory that does not grow with the store but for a byte a page (LMDB). While a
    shard is examined that no process has open, who opens the store waits. One that is open elsewhere is examined as it
    is at one moment, while others go on writing.

    What functions of one's own have made is checked if they are given; else the report says what was not checked.
    Pickled values are read without importing or running anything, unless ``serdes`` is given.

    :raises StoreNotFoundError: there is no such store.
    :raises MismatchError: an argument is not what the store was made with.
    :raises RackError: the store cannot be examined.

    >>> from rack import PersistentDict
    >>> from rack.verify import verify
    >>> with PersistentDict(tmp / "ages") as ages:
    ...     ages["ann"] = 31
    >>> report = verify(tmp / "ages")
    >>> report.sound, report.entries, report.findings
    (True, 1, [])
    """
    path = os.path.abspath(os.fspath(name))
    values = None if serdes is None else resolve(serdes)
    keys = None if key_serdes is None else resolve_codec(key_serdes, values or MARSHAL)
    request = Request("", serdes=values, key_serdes=keys, hash=hash)
    while True:
        report = Report(os.fspath(name))
        try:
            manifest = report.manifest = read_manifest(path)
        except (FileNotFoundError, ManifestError) as error:
            if isinstance(error, ManifestError) and error.newer:
                raise
            report.add(_without_manifest(path, error))
            return report
        if _Verification(path, manifest, request, report, progress).run():
            return report
        # The store was replaced by another one meanwhile.


class _Verification:
    def __init__(
        self, path: str, manifest: Manifest, request: Request, report: Report, progress: Progress | None
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._report = report
        self._progress = progress
        self._record = Record.read(path)
        self._stamps = read_stamps(path, manifest.shards)
        self._expected = 0  # the entries that the shards so far say they have
        knowledge = Knowledge.of(manifest, path, request)
        report.not_checked += knowledge.lacks
        self._spec_request = Request(manifest.kind, hash=knowledge.hash)
        self._entries = Entries(manifest.kind, manifest.shards, knowledge)

    def run(self) -> bool:
        """Return False if it was for nothing: another store took the place of this one."""
        manifest, report = self._manifest, self._report
        report.add(_extra_shards(self._path, manifest))
        lock = StoreLock(self._path, readonly=True)
        try:
            had_lock = os.path.lexists(lock.path)
            for number in range(manifest.shards):
                spec = manifest.spec(self._path, number, self._spec_request, "process", True)
                self._shard(number, spec, lock)
            if self._is_replaced() or os.path.lexists(lock.path) != had_lock:
                return False
        finally:
            lock.close()
        report.entries = self._entries.seen
        if self._entries.left_out:
            report.not_checked.append(
                f"{self._entries.left_out} keys that marshal cannot hold: whether they can be read (give serdes=)"
            )
        return True

    def _shard(self, number: int, spec: ShardSpec, lock: StoreLock) -> None:
        report = self._report
        try:
            with registry.borrowed(self._path) as held:
                if held is not None:
                    report.in_use.append(number)
                    report.add(self._findings(number, held.shards[number].examine()))
                    return
                alone = lock.alone()
                cls = shard_class(self._manifest.engine)
                if not alone:
                    report.in_use.append(number)
                elif self._record.is_of_earlier_boot():
                    try:
                        cls.recover(spec, self._record.durability, self._stamps[number])
                    except CorruptShardError as error:
                        if self._record.durability == "everysec":
                            raise  # it has not been rebuilt yet
                        report.add([Finding(number, "power", str(error))])
                report.add(self._findings(number, cls.examine_file(spec, alone)))
        except (RackError, OSError) as error:
            report.unexamined.append(str(error))
        finally:
            lock.close()

    def _findings(self, number: int, items: Examined) -> Iterator[Finding]:
        shards, last = self._manifest.shards, 0
        with closing(items):  # type: ignore[type-var]
            for item in items:
                if isinstance(item, Problem):
                    yield Finding(number, item.kind, item.message)
                elif isinstance(item, list):
                    for problem in self._entries.problems(number, item):
                        yield Finding(number, problem.kind, problem.message)
                else:
                    self._expected += item
                if self._progress is not None and self._entries.seen >= last:
                    last = self._entries.seen + 1000
                    self._progress(number, shards, self._entries.seen, self._expected * shards // (number + 1))

    def _is_replaced(self) -> bool:
        try:
            return Manifest.read(self._path).id != self._manifest.id
        except (OSError, ManifestError):
            return True


def read_manifest(path: str) -> Manifest:
    """As Manifest.read; waits for a process that makes or replaces the store just now."""
    with suppress(FileNotFoundError):
        return Manifest.read(path)
    lock = StoreLock(path, readonly=True)
    try:
        lock.share()
        return Manifest.read(path)
    finally:
        lock.close()


def _without_manifest(path: str, error: Exception) -> Iterator[Finding]:
    if isinstance(error, ManifestError):
        yield Finding(None, "manifest", str(error))
    elif shard_files(path) and not os.path.lexists(unfinished_path(path)):
        files = ", ".join(os.path.basename(file) for _, _, file in shard_files(path)[:3])
        yield Finding(None, "manifest", f"{manifest_path(path)} is missing, and there are shards ({files}, ...)")
    else:
        raise StoreNotFoundError(f"there is no store {path}: no {manifest_path(path)}")


def _extra_shards(path: str, manifest: Manifest) -> Iterator[Finding]:
    for engine, number, file in shard_files(path):
        if engine != manifest.engine or number >= manifest.shards:
            yield Finding(None, "manifest", f"{file} is not one of the {manifest.shards} shards of the store")
