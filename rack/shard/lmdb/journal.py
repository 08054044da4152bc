"""The journal of an LMDB shard (durability "everysec"): what its transactions changed, in the order of their commits.

A file ``SHARD-journal-S``, S the generation modulo 4, of which at most three are there at once. So nobody has to list
the folder to find them::

    0     magic, store id, shard number, generation, salt            (never changes; synced before the file is used)
    2048  end (0: sealed), synced, based: three numbers of 8 bytes   (shared memory of the writers; of no use later)
    4096  records, then zeros

A record is three numbers of 8 bytes and a body: the body's length, the LMDB transaction's id, and the xxh3_64 of id and
body with the salt as its seed. A body is operations, one after the other, see :func:`operations`.

Records are written into a shared map, 0.1 us, by whoever holds LMDB's writer lock; ``end`` is moved behind a record
once it is complete, so that half a record of a process that was killed is written over. A record precedes the commit,
and a process may be killed, or the commit fail, between the two: then the next transaction has the same id, and its
record counts instead.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import lmdb
from xxhash import xxh3_64_intdigest

from rack.errors import CorruptShardError, StoreFullError, StorePathError
from rack.shard.base import ShardSpec
from rack.shard.lmdb import datafile
from rack.system.descriptor import Descriptor
from rack.system.flock import pause
from rack.system.place import take_after_path

_MAGIC = b"rack-journal-1\n\0"
_HEADER = struct.Struct("<16s32sIQQ")
_NUMBER = struct.Struct("=Q")
_RECORD = struct.Struct("<QQQ")  # length of the body, transaction id, checksum
_OPERATION = struct.Struct("<BHQ")  # kind, length of the key, of the value
_HEAD = 2048
_END, _SYNCED, _BASED = range(_HEAD // 8, _HEAD // 8 + 3)  # as numbers of 8 bytes
START = 4096
_STEP = 16 << 10
_RESERVE = 64 << 10  # bytes at the end of the file, for transactions that only remove: so a full disk can be emptied
_LARGEST_STEP = 4 << 20
_TRIES = 50
_MASK = (1 << 64) - 1

PUT, DELETE, DROP = 0, 1, 2  # in the main database; + LONG: in the table of long keys
LONG = 4
pack_operation = _OPERATION.pack
_pack_record = _RECORD.pack


SLOTS = 4


def journal_path(shard: str, generation: int) -> str:
    return f"{shard}-journal-{generation % SLOTS}"


def base_path(shard: str, generation: int) -> str:
    return f"{shard}-base-{generation % SLOTS}"


def generations(shard: str, kind: str) -> list[int]:
    """Return the generations of which there is a file of a kind, "journal" or "base", in order.

    A journal tells its own. A base is of the generation of the journal in the same slot, which is made before it and
    removed after it; if that is missing or damaged, of the last one that can be.
    """
    known = {slot: _generation_in(journal_path(shard, slot)) for slot in range(SLOTS)}
    newest = max(filter(None, known.values()), default=0)
    return sorted(
        known[slot] or max(slot, newest - (newest - slot) % SLOTS)
        for slot in range(SLOTS)
        if os.path.exists(f"{shard}-{kind}-{slot}")
    )


def _generation_in(path: str) -> int:
    """Return the generation that a journal says it is of; 0 if there is none, or it is none."""
    try:
        with open(path, "rb") as file:
            magic, _, _, generation, _ = _HEADER.unpack(file.read(_HEADER.size))
    except (FileNotFoundError, struct.error):
        return 0
    return generation if magic == _MAGIC else 0


def unsynced_part(path: str) -> int | None:
    """Return how many bytes of a journal's records are not known to be on the disk; None if there is no journal."""
    try:
        with open(path, "rb") as file:
            head = os.pread(file.fileno(), START, 0)
    except OSError:
        return None
    if len(head) < START or not head.startswith(_MAGIC):
        return None
    end, synced = _NUMBER.unpack_from(head, 8 * _END)[0], _NUMBER.unpack_from(head, 8 * _SYNCED)[0]
    return int(max(0, end - synced))  # one that is sealed, whose end is 0, was synced before that


class Journal:
    """A journal that is open for writing. Its methods are called by whoever holds LMDB's writer lock, but for sync."""

    def __init__(self, spec: ShardSpec, generation: int) -> None:
        self.generation = generation
        self.path = journal_path(spec.path, generation)
        self._at = 0  # where the last record begins
        self._size = START  # what may be written to without asking
        self._file = io.FileIO(self.path, "r+")  # closed even if an exception comes right here
        self._fd = self._file.fileno()
        try:
            self._salt = _check_header(os.pread(self._fd, _HEADER.size, 0), spec, generation, self.path)
            # Whoever finds no space to make it larger cuts it again: only in a transaction can its size be relied on.
            self._use(os.fstat(self._fd).st_size)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def newest(cls, spec: ShardSpec) -> Self:
        """Open the journal that is being written.

        :raises CorruptShardError: there is none.
        """
        for _ in range(_TRIES):
            # A later one may have been made and not be in use yet: it is, when the ones before it are sealed.
            for generation in generations(spec.path, "journal"):
                try:
                    journal = cls(spec, generation)
                except FileNotFoundError:  # it was sealed, and a base has replaced it just now
                    continue
                if not journal.sealed:
                    return journal
                journal.close()
            pause()
        raise CorruptShardError(f"{journal_path(spec.path, 1)} or a later one is missing: the shard's journal")

    def _use(self, size: int) -> None:
        self._map = mmap.mmap(self._fd, size)  # the other one is closed when nothing refers to it any more
        self._numbers = memoryview(self._map)[: _HEAD + 24].cast("Q")  # each is written at once

    @property
    def end(self) -> int:
        """Where the next record goes; 0 if the journal is sealed."""
        return self._numbers[_END]

    @property
    def sealed(self) -> bool:
        return not self.end

    def seal(self) -> None:
        """Have all writers go on in the next generation."""
        self._numbers[_END] = 0

    @property
    def base_size(self) -> int:
        """The size of the base of this generation in bytes, 0 while there is none."""
        return self._numbers[_BASED]

    @base_size.setter
    def base_size(self, size: int) -> None:
        self._numbers[_BASED] = size

    def append(self, txn_id: int, body: bytes) -> bool:
        """Write a record, unless the journal is sealed: then return False.

        :raises StoreFullError: there is no space; nothing was written.
        """
        self._at = at = self._numbers[_END]
        if not at:
            return False
        end = at + 24 + len(body)
        if end > self._size:
            self._extend(end, body)
        self._map[at:end] = (
            _pack_record(len(body), txn_id, xxh3_64_intdigest(body, (self._salt + txn_id) & _MASK)) + body
        )
        self._numbers[_END] = end
        return True

    def take_back(self, txn: Any) -> None:
        """Take back the record of a transaction that is not to be, if there is one. Called inside it."""
        at = self._at
        try:
            if at and at + _RECORD.size <= len(self._map) and _NUMBER.unpack_from(self._map, at + 8)[0] == txn.id():
                self._map[at : at + _RECORD.size] = bytes(_RECORD.size)
                self._numbers[_END] = at
        except (ValueError, lmdb.Error):
            pass  # the journal is closed; or the transaction is over, and has committed

    def _extend(self, end: int, body: bytes) -> None:
        if not self._size:
            raise StorePathError(5, "the journal could not be synced: what was written since may be lost", self.path)
        size = os.fstat(self._fd).st_size
        if end + _RESERVE > size:
            try:
                size = self._grown(size, max(end + _RESERVE, size + min(size, _LARGEST_STEP)))
            except StoreFullError:
                least = end if _only_removes(body) else end + _RESERVE
                if least > size:
                    size = self._grown(size, least)
        if size != len(self._map):
            self._use(size)
        self._size = max(size - _RESERVE, START)

    def _grown(self, size: int, need: int) -> int:
        new_size = -(-need // _STEP) * _STEP
        datafile.extend(self._fd, size, new_size, self.path)
        return new_size

    def begin_sync(self, file: Descriptor) -> int:
        """Open ``file``, which is to be synced, unless all is on the disk; return the end that is on the disk then."""
        end = self.end
        if not end or end != self._numbers[_SYNCED]:
            file.open(os.dup, self._fd)
        return end

    def end_sync(self, end: int) -> None:
        if end:
            self._numbers[_SYNCED] = end

    def refuse(self) -> None:
        """Append nothing any more: after a failed sync nobody knows what the disk has."""
        self._size = 0

    def close(self) -> None:
        self._numbers.release()
        self._map.close()
        self._file.close()


def _only_removes(body: bytes) -> bool:
    """Return whether a transaction put nothing, but for the record that Rack puts again after a clear."""
    return all(kind & ~LONG != PUT or (kind, key) == (PUT, datafile.IDENTITY) for kind, key, _ in operations(body))


def create(spec: ShardSpec, generation: int) -> str:
    """Make an empty journal, but for its name, and return its path; it must be on the disk before it gets that.

    :raises StoreFullError: there is no space.
    """
    path = journal_path(spec.path, generation) + "-new"
    file = io.FileIO(path, "w+")
    fd = file.fileno()
    try:
        take_after_path(path, spec.path)
        datafile.extend(fd, 0, _STEP + _RESERVE, path)
        salt = int.from_bytes(os.urandom(8))
        os.pwrite(fd, _HEADER.pack(_MAGIC, spec.store_id.encode(), spec.number, generation, salt), 0)
        os.pwrite(fd, _NUMBER.pack(START), _HEAD)
    finally:
        file.close()
    return path


def records(spec: ShardSpec, generation: int) -> Iterator[tuple[int, bytes]]:
    """Yield (transaction id, body) of the records of a journal, up to the first that is not whole.

    :raises CorruptShardError: the file is not the shard's journal of that generation.
    """
    path = journal_path(spec.path, generation)
    with open(path, "rb") as file:
        salt = _check_header(file.read(_HEADER.size), spec, generation, path)
        size = os.fstat(file.fileno()).st_size
        file.seek(START)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            length, txn_id, checksum = _RECORD.unpack(head)
            if not txn_id or length > size - file.tell():
                return
            body = file.read(length)
            if xxh3_64_intdigest(body, (salt + txn_id) & _MASK) != checksum:
                return
            yield txn_id, body


def is_whole(spec: ShardSpec, generation: int) -> bool:
    """Return whether all records of a journal can be read."""
    at = START + sum(_RECORD.size + len(body) for _, body in records(spec, generation))
    with open(journal_path(spec.path, generation), "rb") as file:
        file.seek(_HEAD)
        (end,) = _NUMBER.unpack(file.read(_NUMBER.size))
        if end:
            return bool(at >= end)  # behind it there may be one whose transaction was not to be
        file.seek(at)
        return not any(any(block) for block in iter(partial(file.read, 1 << 16), b""))


def operations(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (kind, key, value) of the operations in the body of a record."""
    at = 0
    while at < len(body):
        kind, key_size, value_size = _OPERATION.unpack_from(body, at)
        at += _OPERATION.size
        end = at + key_size + value_size
        yield kind, body[at : at + key_size], body[at + key_size : end]
        at = end


def _check_header(header: bytes, spec: ShardSpec, generation: int, path: str) -> int:
    """Return the salt."""
    if len(header) == _HEADER.size:
        magic, store_id, number, found, salt = _HEADER.unpack(header)
        if (magic, store_id, number) == (_MAGIC, spec.store_id.encode(), spec.number):
            if found > generation:
                raise FileNotFoundError(errno.ENOENT, "a later journal is in its place", path)
            if found == generation:
                return int(salt)
    raise CorruptShardError(f"{path} is not the journal of this shard")
