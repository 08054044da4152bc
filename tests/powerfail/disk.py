"""What a disk may hold after a power failure.

Surely there: what was synced, of a file or of a directory. Of what was done since:

- names: a prefix of what was done to them, as a journal keeps order; cuts of files (truncations) are in that order;
- a page (4 KiB): what it was at the last sync, or at any moment since: a page is not torn;
- a length: that at the last sync, or any up to the greatest since. What has no content yet there is zeros, or noise.

Pages are independent of each other and of names and lengths: the file system writes them when it likes.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.powerfail.recorder import PAGE, Content, Kept, Moment, Recorder
from tests.support.processes import as_the_same_files

_ZEROS = bytes(PAGE)
_SOURCES = 12  # moments that pages are taken from: the last so many

# Of the versions that a page may have, oldest first, tells which one it has.
Choose = Callable[[int, int], int]  # (page number, number of versions) -> index


@dataclass(slots=True)
class History:
    """The events of a recording, and what they did."""

    lines: list[tuple[int, list[str]]] = field(default_factory=list)  # (position, words)

    @classmethod
    def of(cls, recorder: Recorder) -> History:
        history = cls()
        position = 0
        for line in recorder.events().splitlines(keepends=True):
            history.lines.append((position, line.decode().split()))
            position += len(line)
        return history

    def until(self, position: int) -> list[tuple[int, list[str]]]:
        return self.lines[: bisect_right(self.lines, position - 1, key=lambda line: line[0])]


def names_after(lines: list[tuple[int, list[str]]]) -> dict[str, int]:
    """Return what the directory holds (name: inode) when this has been done to it."""
    names: dict[str, int] = {}
    for _, (kind, *words) in lines:
        if kind == "create":
            names[words[1]] = int(words[0])
        elif kind == "rename":
            names[words[1]] = names.pop(words[0])
        elif kind == "link":
            names[words[1]] = names[words[0]]
        elif kind == "unlink":
            del names[words[0]]
    return names


def leave(history: History, moments: list[Moment], rng: random.Random, noise: bool = False) -> dict[str, bytes]:
    """Return what a power failure at the last of the moments may leave in the directory.

    :param noise: what has no content yet may be anything, and not zeros alone.
    """
    last = moments[-1]
    lines = history.until(last.position)
    known = max((at for at, (_, (kind, *_)) in enumerate(lines) if kind == "names"), default=-1) + 1
    done = rng.choice([known, len(lines), rng.randint(known, len(lines))])
    blank = rng.choice([_ZEROS, rng.randbytes(PAGE)]) if noise else _ZEROS
    disk = _Disk(lines, done, moments[-_SOURCES:], rng, blank)
    names = names_after(lines[:done])
    choices = _choices(sorted(names), rng)
    return {name: disk.file(inode, choices[name]) for name, inode in names.items()}


def now(history: History, moment: Moment) -> dict[str, bytes]:
    """Return what is in the directory at a moment: what the next process finds if there is no power failure."""
    return {
        name: b"".join(moment.present[inode].pages)[: moment.present[inode].length]
        for name, inode in names_after(history.until(moment.position)).items()
    }


def put(files: dict[str, bytes], directory: Path) -> None:
    """Write files that a disk has; they are the very files, and no copies."""
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
        if name.endswith(".rack-boot"):
            as_the_same_files(directory / name.removesuffix(".rack-boot"))


class _Disk:
    def __init__(
        self, lines: list[tuple[int, list[str]]], done: int, moments: list[Moment], rng: random.Random, blank: bytes
    ) -> None:
        self._blank = blank
        self._moments = moments
        self._rng = rng
        self._cuts: dict[int, list[tuple[int, int, bool]]] = {}  # inode: (position, length, whether it is on the disk)
        self._synced: dict[int, int] = {}  # inode: position behind its last sync
        for number, (position, (kind, *words)) in enumerate(lines):
            if kind == "truncate":
                self._cuts.setdefault(int(words[0]), []).append((position, int(words[1]), number < done))
            elif kind == "sync":
                self._synced[int(words[0])] = position + 1
                self._cuts.pop(int(words[0]), None)

    def file(self, inode: int, choose: Choose) -> bytes:
        last = self._moments[-1]
        kept = last.durable.get(inode)
        cuts = self._cuts.get(inode, [])
        later = [
            (moment.position, moment.present[inode])
            for moment in self._moments
            if inode in moment.present and moment.position >= self._synced.get(inode, 0)
        ]
        length = self._length(kept.content.length if kept else 0, later, cuts)
        # Some pages may have been synced alone, and later: a moment before that is none for them.
        ranges = [(moment.position, moment.present[inode]) for moment in self._moments if inode in moment.present]
        pages = []
        for page in range(-(-length // PAGE)):
            versions = self._versions(page, kept, ranges, cuts)
            pages.append(versions[choose(page, len(versions))])
        return b"".join(pages)[:length]

    def _length(self, kept: int, later: list[tuple[int, Content]], cuts: list[tuple[int, int, bool]]) -> int:
        least = min([kept, *(length for _, length, on_disk in cuts if on_disk)])
        seen = [least]
        for position, content in later:
            # A moment is told from cuts by what was done at it: those that are on the disk, and no others.
            if all((cut < position) == on_disk for cut, _, on_disk in cuts):
                seen.append(content.length)
        most = max(seen)
        between = self._rng.randint(least, most) // PAGE * PAGE
        return self._rng.choice([least, most, most, self._rng.choice(seen), max(least, between)])

    def _versions(
        self, page: int, kept: Kept | None, moments: list[tuple[int, Content]], cuts: list[tuple[int, int, bool]]
    ) -> list[bytes]:
        """Return what the page may be, oldest first."""
        since = kept.when[page] if kept and page < len(kept.when) else 0
        first = kept.content.pages[page] if kept and page < len(kept.content.pages) else self._blank
        versions = [(since, first)]
        for position, content in moments:
            if position >= since:
                version = content.pages[page] if page < len(content.pages) else _ZEROS
                if version is not versions[-1][1]:
                    versions.append((position, version))
        for cut, length, on_disk in cuts:
            begin = page * PAGE
            if length >= begin + PAGE:
                continue
            if on_disk:  # what was written before it, is cut
                versions = [
                    (position, data if position > cut else data[: max(0, length - begin)].ljust(PAGE, b"\0"))
                    for position, data in versions
                ]
            else:  # what was written behind it has nowhere to be
                versions = [version for version in versions if version[0] <= cut] or versions[:1]
        return [data for _, data in versions]


# Which version of each page is on the disk. Chance alone would hardly ever leave a file whole but for one page.


def _oldest(rng: random.Random) -> Choose:
    return lambda page, count: 0


def _newest(rng: random.Random) -> Choose:
    return lambda page, count: count - 1


def _any(rng: random.Random) -> Choose:
    return lambda page, count: rng.randrange(count)


def _mostly_oldest(rng: random.Random) -> Choose:
    share = rng.choice([0.01, 0.05, 0.2])
    return lambda page, count: rng.randrange(count) if rng.random() < share else 0


def _mostly_newest(rng: random.Random) -> Choose:
    share = rng.choice([0.01, 0.05, 0.2])
    return lambda page, count: rng.randrange(count) if rng.random() < share else count - 1


def _newest_up_to(rng: random.Random) -> Choose:
    end = int(2 ** rng.uniform(0, 9))
    return lambda page, count: count - 1 if page < end else 0


def _newest_behind(rng: random.Random) -> Choose:
    begin = int(2 ** rng.uniform(0, 9))
    return lambda page, count: count - 1 if page >= begin else 0


def _choices(names: list[str], rng: random.Random) -> dict[str, Choose]:
    """Return how each file's pages are chosen: all alike, all but one, or each by itself."""
    kind = rng.random()
    if kind < 0.3:
        return {name: rng.choice(_STRATEGIES)(rng) for name in names}
    if kind < 0.6:
        return dict.fromkeys(names, rng.choice(_STRATEGIES)(rng))
    choices = dict.fromkeys(names, rng.choice([_oldest, _newest, _newest])(rng))
    if names:
        choices[rng.choice(names)] = rng.choice(_STRATEGIES)(rng)
    return choices


_STRATEGIES = [_oldest, _newest, _any, _mostly_oldest, _mostly_newest, _newest_up_to, _newest_behind]
