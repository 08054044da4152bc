"""``rack verify``: goes over a store that need not be openable, reports everything that is wrong, changes no file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from rack.care import served
from rack.care.alone import finish_move
from rack.care.entries import Entries, Knowledge
from rack.care.guess import shard_files
from rack.codec.keys import resolve_codec
from rack.codec.serdes import MARSHAL, SerdesArgument, resolve
from rack.errors import ManifestError, RackError, StoreNotFoundError, told
from rack.shard import ENGINES, shard_class
from rack.shard.address import Address
from rack.shard.base import Examined
from rack.shard.problem import Problem, UncleanError
from rack.store import registry
from rack.store.lock import StoreLock
from rack.store.manifest import (
    MAX_SHARDS,
    Manifest,
    Request,
    absolute_path,
    manifest_path,
    shard_path,
    unfinished_path,
)
from rack.store.record import Record, copy_problem
from rack.system.arguments import whole
from rack.system.fanout import fan_out

_LISTED = 20  # findings of one kind in one shard; the others are counted
_ABSENT = 100  # shards, one after another

#: Called now and then with how many shards are done, parts of them included, and how many there are.
Progress = Callable[[float, int], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a store: one of the ``findings`` of what :func:`rack.verify` returns."""

    #: The number of the shard; None: the store as a whole.
    shard: int | None
    #: What kind of damage it is: "manifest", "missing", "foreign", "swapped", "structure", "count", "order", "record",
    #: "checksum", "shard", "key", "value", "copied" or "power".
    kind: str
    #: What is wrong, in words.
    message: str


@dataclass
class Report:
    """What :func:`rack.verify` has found.

    >>> import rack
    >>> with rack.PersistentSet(tmp / "reported") as seen:
    ...     seen.update(["a", "b"])
    >>> report = rack.verify(tmp / "reported")
    >>> report.sound, report.found, report.as_dict()["entries"]
    (True, 0, 2)
    """

    #: The store, as it was given.
    name: str
    manifest: Manifest | None = None
    #: What is wrong. Of many findings of a kind in a shard, the first 20.
    findings: list[Finding] = field(default_factory=list)
    #: How many findings there are, also those that are not listed because there are many of a kind.
    found: int = 0
    #: How many entries were seen.
    entries: int = 0
    #: The shards that other processes had open: they were examined in one state, as it was at some moment.
    in_use: list[int] = field(default_factory=list)
    #: What was left out, in words, and is no cause for concern.
    not_checked: list[str] = field(default_factory=list)
    #: Why shards could not be examined, in words.
    unexamined: list[str] = field(default_factory=list)
    #: How many keys could not be read for lack of a function.
    left_out: int = 0

    @property
    def sound(self) -> bool:
        """Whether all was examined and nothing is wrong."""
        return not self.found and not self.unexamined

    def file(self, finding: Finding) -> str:
        """Return the file that a finding is about. O(1); it reads nothing.

        :param finding: one of ``findings``.
        :returns: the path of the shard, or of the manifest if the finding is about the store as a whole.
        """
        path = absolute_path(self.name)
        if finding.shard is None or self.manifest is None:
            return manifest_path(path)
        return shard_path(path, finding.shard, shard_class(self.manifest.engine).suffix)

    def as_dict(self) -> dict[str, object]:
        """Return the report as ``rack verify --json`` prints it. O(k) for k findings.

        :returns: a dict that JSON can hold.
        """
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
        """Add findings of one shard, or of the store. Of each kind the first ones are listed; all are counted."""
        counts = Counter((finding.shard, finding.kind) for finding in self.findings)
        for finding in findings:
            self.found += 1
            counts[finding.shard, finding.kind] += 1
            if counts[finding.shard, finding.kind] <= _LISTED:
                self.findings.append(finding)

    def include(self, shard: Report) -> None:
        """Add what was found in a shard."""
        self.findings += shard.findings
        self.found += shard.found
        self.entries += shard.entries
        self.in_use += shard.in_use
        self.unexamined += shard.unexamined
        self.left_out += shard.left_out


def verify(
    name: str | os.PathLike[str],
    *,
    hash: Callable[[bytes], bytes] | None = None,
    serdes: SerdesArgument = None,
    key_serdes: SerdesArgument = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Go over all of a store, and report everything that is wrong with it.

    It makes or changes no file of the store, which may be damaged in any way. O(n): it reads every byte in use once.
    Its memory does not grow with the store, but for a byte a page on LMDB.

    Not atomic as a whole: each shard is examined as it is at one moment, and the shards one after another. Other
    processes may go on writing to a store that they have open. Who opens a store that is open nowhere waits while a
    shard is examined; with ``workers``, until all shards are done.

    What functions of one's own have made is checked if they are given. Else the report says what was not checked.
    Pickled values are read without importing or running anything, unless ``serdes`` is given.

    :param name: the store, as for :class:`rack.PersistentSet`.
    :param hash: the function that the store was made with, if it is not the default.
    :param serdes: what the store was made with, if it is not a preset.
    :param key_serdes: what the store was made with, if it is not a preset.
    :param workers: how many processes share the shards, at least 1.
    :param progress: called now and then as ``progress(done, shards)``: how many shards are done, parts of them
        included, and how many there are.
    :returns: a :class:`rack.care.verify.Report`: ``sound``, ``entries``, ``findings`` and more. Damage is no error.
    :raises StoreNotFoundError: there is no such store.
    :raises ManifestError: a newer Rack has made the store.
    :raises MismatchError: an argument is not what the store was made with.
    :raises RackError: the store cannot be examined.
    :raises WorkerError: a worker process was killed.

    >>> import rack
    >>> with rack.PersistentDict(tmp / "ages") as ages:
    ...     ages["ann"] = 31
    >>> report = rack.verify(tmp / "ages")
    >>> report.sound, report.entries, report.findings
    (True, 1, [])
    """
    workers = whole("workers", workers, 1)
    path = absolute_path(name)
    finish_move(path)
    given = _Given(hash, serdes, key_serdes)
    while True:
        report = Report(os.fspath(name))
        try:
            manifest = report.manifest = read_manifest(path)
        except ManifestError as error:
            if error.newer:
                raise
            report.add([Finding(None, "manifest", str(error))])
            return report
        if manifest is None:
            report.add(_without_manifest(path))
            return report
        if _examined(_Examination(path, manifest, given), report, workers, progress):
            return report
        # The store was replaced by another one meanwhile.


@dataclass(frozen=True)
class _Given:
    """The functions that the caller has given, which the store is said to be made with."""

    hash: Callable[[bytes], bytes] | None
    serdes: SerdesArgument
    key_serdes: SerdesArgument

    def request(self) -> Request:
        values = None if self.serdes is None else resolve(self.serdes)
        keys = None if self.key_serdes is None else resolve_codec(self.key_serdes, values or MARSHAL)
        return Request("", serdes=values, key_serdes=keys, hash=self.hash)


class _Examination:
    """What a process that examines shards needs to know."""

    def __init__(self, path: str, manifest: Manifest, given: _Given) -> None:
        self.path = path
        self.manifest = manifest
        self.record = Record.read(path)
        self._given = given

    @cached_property
    def knowledge(self) -> Knowledge:
        return Knowledge.of(self.manifest, self.path, self._given.request())

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "knowledge"}

    def shard(self, alone: bool, number: int, progress: Callable[[float], object]) -> Report:
        """Examine a shard. ``alone``: no process has the store open, and who opens it waits."""
        report = Report(self.path)
        spec_request = Request(self.manifest.kind, hash=self.knowledge.hash)
        spec = self.manifest.spec(self.path, number, spec_request, "process", True)
        cls = shard_class(self.manifest.engine)
        try:
            if isinstance(self.path, Address):
                self._take(served.examined(self.path, number), number, report, progress)
                return report
            if not alone:
                report.in_use.append(number)
                with registry.borrowed(self.path) as held:
                    items = cls.examine_file(spec, False) if held is None else held.shards[number].examine()
                    self._take(items, number, report, progress)
                return report
            # The store's lock is held: the registry must not be used here. A thread of this process that opens the
            # store has the registry's lock, and waits for the store's.
            if self.record.is_of_earlier_boot():
                try:
                    cls.recover(spec, self.record.durability)
                except UncleanError as error:
                    report.add([Finding(number, "power", error.problem)])
            self._take(cls.examine_file(spec, True), number, report, progress)
        except (RackError, OSError) as error:
            report.unexamined.append(told(error))
        return report

    def _take(self, items: Examined, number: int, report: Report, progress: Callable[[float], object]) -> None:
        entries = Entries(self.manifest.kind, self.manifest.shards, self.knowledge)
        expected, done = 0, 0.0
        with closing(items):  # type: ignore[type-var]
            for item in items:
                if isinstance(item, int):
                    expected = item
                    continue
                problems = [item] if isinstance(item, Problem) else entries.problems(number, item)
                report.add(Finding(number, problem.kind, problem.message) for problem in problems)
                if expected and (part := min(1.0, entries.seen / expected)) > done:
                    progress(part - done)
                    done = part
        progress(1 - done)
        report.entries, report.left_out = entries.seen, entries.left_out


def _examined(examination: _Examination, report: Report, workers: int, progress: Progress | None) -> bool:
    """Return False if it was for nothing: another store took the place of this one."""
    path, shards = examination.path, examination.manifest.shards
    report.not_checked += examination.knowledge.lacks
    if isinstance(path, Address):
        for part in fan_out(
            _Examination.shard, (examination, False), range(shards), workers, _adding(progress, shards)
        ):
            report.include(part)
        _tell_left_out(report)
        return True
    report.add(_extra_shards(path, examination.manifest))
    if (problem := copy_problem(path, examination.manifest, examination.record)) is not None:
        report.add([Finding(None, "copied", f"{manifest_path(path)} {problem}")])
    advance = _adding(progress, shards)
    lock = StoreLock(path, readonly=True)
    had_lock = os.path.lexists(lock.path)
    # Who opens the store waits no longer than for a shard, if one process examines them one after another.
    for numbers in [[number] for number in range(shards)] if workers == 1 else [range(shards)]:
        try:
            shared = examination, lock.alone()
            for part in fan_out(_Examination.shard, shared, numbers, workers, advance):
                report.include(part)
        finally:
            lock.close()
    if _is_replaced(examination) or os.path.lexists(lock.path) != had_lock:
        return False
    _tell_left_out(report)
    return True


def _adding(progress: Progress | None, shards: int) -> Callable[[float], object]:
    """Return what is told how much more is done."""
    done = 0.0

    def advance(more: float) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, shards)

    return advance


def _tell_left_out(report: Report) -> None:
    if report.left_out:
        report.not_checked.append(
            f"{report.left_out:,} keys of classes of the program's own: whether these are there takes their serdes"
        )


def _is_replaced(examination: _Examination) -> bool:
    try:
        found = Manifest.read(examination.path)
        return found is None or found.id != examination.manifest.id
    except (OSError, ManifestError):
        return True


def read_manifest(path: str) -> Manifest | None:
    """As Manifest.read; waits for a process that makes or replaces the store just now."""
    if isinstance(path, Address):
        with served.marked(path) as (_, mark):
            return mark.manifest
    if (found := Manifest.read(path)) is not None:
        return found
    lock = StoreLock(path, readonly=True)
    try:
        lock.share()
        return Manifest.read(path)
    finally:
        lock.close()


def _without_manifest(path: str) -> Iterator[Finding]:
    if shard_files(path) and not os.path.lexists(unfinished_path(path)):
        files = ", ".join(os.path.basename(file) for _, _, file in shard_files(path)[:3])
        yield Finding(None, "manifest", f"{manifest_path(path)} is missing, and there are shards ({files}, ...)")
    else:
        raise StoreNotFoundError(f"there is no store {path}: no {manifest_path(path)}")


def _extra_shards(path: str, manifest: Manifest) -> Iterator[Finding]:
    """Find shards that another store of that name has left, with more shards or of another engine.

    Its numbers follow one another, but for some that are lost: a hundred that are not there are the end of them. To
    look for all numbers that there can be takes 70 ms, in which a store of thousands of entries is verified.
    """
    for engine in ENGINES:
        suffix = shard_class(engine).suffix
        absent = 0
        for number in range(manifest.shards if engine == manifest.engine else 0, MAX_SHARDS + 1):
            if os.path.lexists(file := shard_path(path, number, suffix)):
                yield Finding(None, "manifest", f"{file} is not one of the {manifest.shards} shards of the store")
                absent = 0
            elif (absent := absent + 1) == _ABSENT:
                break
