"""The LMDB engine. One environment a shard, opened with ``writemap``; see DESIGN.rst for the layout and its reasons.

A key below :data:`_RESERVED` and of 1 to 511 bytes *is* an LMDB key of the main database. Any other key lives in the
table of long keys (:mod:`rack.shard.lmdblong`). Two records of the main database are Rack's own and sort behind all
keys: the shard's identity, and LMDB's record of the table of long keys.

``_lock`` is held around each short transaction. It makes threads of this process queue, keeps a resize (which
invalidates the process's transactions) from being seen, and is what ``before_fork`` takes so that no transaction is
alive at a fork.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from itertools import islice
from threading import RLock
from typing import Any

import lmdb

from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    NotOpenError,
    RackError,
    ReadOnlyError,
    ReentrantWriteError,
    StoreFullError,
    StorePathError,
    TooLargeError,
)
from rack.shard import lmdbfile
from rack.shard.base import Pair, Shard, ShardSpec
from rack.shard.lmdblong import LongKeys

_MAX_KEY = 511  # LMDB's default, which the on-disk format depends on
_RESERVED = b"\xff" * 510 + b"\x01"  # names of databases are C strings: no NUL
_LONG_TABLE = _RESERVED
_IDENTITY = b"\xff" * 511
_MAX_VALUE = 0xFFFFFFFF - 4096
_MAX_READERS = 4096
_BLOCK_ITEMS = 1024
_BLOCK_BYTES = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ElementTooLongError(TooLargeError, lmdb.BadValsizeError):
    """A ``rack.set_small`` holds elements of 1 to 511 bytes when serialized."""


class LmdbShard(Shard):
    suffix = ".lmdb"
    companions = ("-lock",)
    ordered = True

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        _remove_leftover(spec)
        with open(spec.path, "xb"):
            pass
        with lmdbfile.growth_lock(spec.path) as fd:
            env = _open_env(spec, lmdbfile.INITIAL_SIZE)
            try:
                page = env.stat()["psize"]
                # LMDB has just made the file this long, with holes: fill all but its two meta pages.
                lmdbfile.extend(fd, 2 * page, lmdbfile.INITIAL_SIZE, spec.path)
                if spec.layout != "small":
                    env.open_db(_LONG_TABLE)
                with env.begin(write=True) as txn:
                    txn.put(_IDENTITY, _identity(spec))
                env.sync(True)
            finally:
                env.close()

    def __init__(self, spec: ShardSpec, rejoin: Callable[[], None]) -> None:
        self._spec = spec
        self._rejoin = rejoin
        self._lock = RLock()
        self._begin: Any = self._begin_reopened
        self._env: Any = None
        self._main: Any = None
        self._long: LongKeys | None = None
        self._inode = (0, 0)
        self._check_write: Callable[[], None] | None = None
        with self._lock:
            self._open()

    # One key. get, put and add carry their own transaction for speed; the others go through _read and _write.

    def get(self, key: bytes) -> bytes | None:
        if key < _RESERVED:
            try:
                with self._lock:
                    value: bytes | None = self._begin().get(key)
                if value is not None or len(key) <= _MAX_KEY:
                    return value
            except lmdb.Error:
                pass  # the empty key, or something that _read mends
        return self._read(_get, key)

    def contains(self, key: bytes) -> bool:
        return self._read(_contains, key)

    def put(self, key: bytes, value: bytes) -> None:
        if key < _RESERVED:
            try:
                with self._lock:
                    txn = self._begin(None, None, True)
                    try:
                        txn.put(key, value)
                        txn.commit()
                        return
                    except BaseException:
                        _abort(txn)
                        raise
            except lmdb.Error:
                pass
        self._write(_put, key, value)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        if key < _RESERVED:
            try:
                with self._lock:
                    txn = self._begin(None, None, True)
                    try:
                        if txn.put(key, value, True, False):
                            txn.commit()
                            return None
                        present: bytes = txn.get(key)
                        txn.abort()
                        return present
                    except BaseException:
                        _abort(txn)
                        raise
            except lmdb.Error:
                pass
        return self._write(_add, key, value)

    def delete(self, key: bytes) -> bool:
        return self._write(_delete, key)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(_pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(_pop_first)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._write(_modify, key, change)

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(_get_many, keys)

    def put_many(self, pairs: list[Pair]) -> None:
        self._write(_put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        return self._write(_add_many, pairs)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._write(_delete_many, keys)

    # The whole shard

    def scan(self, after: bytes | None, reverse: bool, values: bool) -> list[Any]:
        return self._read(_scan, after, reverse, values)

    def count(self) -> int:
        return self._read(_count)

    def clear(self) -> None:
        self._write(_clear)

    def version(self) -> int:
        return self._read(_version)

    def check(self) -> None:
        self._read(_check)

    def sync(self) -> None:
        with self._lock:
            self._begin().abort()  # reopens, or raises, as any operation would
            self._env.sync(True)

    # Transactions

    def _read(self, body: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            while True:
                try:
                    txn = self._begin()
                    try:
                        return body(self, txn, *args)
                    finally:
                        _abort(txn)
                except lmdb.Error as error:
                    self._mend(error, args)

    def _write(self, body: Callable[..., Any], *args: Any) -> Any:
        """Run ``body(self, txn, *args)`` in a write transaction, again after growing the map where that is needed."""
        with self._lock:
            while True:
                try:
                    txn = self._begin(None, None, True)
                    try:
                        result = body(self, txn, *args)
                        txn.commit()
                        return result
                    except BaseException:
                        _abort(txn)
                        raise
                except lmdb.Error as error:
                    self._mend(error, args)

    def _mend(self, error: lmdb.Error, args: tuple[Any, ...]) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if isinstance(error, lmdb.MapFullError):
            self._grow(_bytes_in(args))
        elif isinstance(error, lmdb.MapResizedError):
            self._adopt_size()
        elif isinstance(error, lmdb.ReadersFullError) and self._env.reader_check():
            pass
        else:
            raise self._translated(error) from error

    def _translated(self, error: lmdb.Error) -> Exception:
        path = self._spec.path
        if isinstance(error, RackError):
            return error
        if isinstance(error, lmdb.ReadonlyError):
            return ReadOnlyError(errno.EACCES, 'the store was opened with flag="r"', path)
        if isinstance(error, lmdb.BadValsizeError):
            return TooLargeError(f"a value or key is larger than LMDB holds ({_MAX_VALUE} bytes)")
        if isinstance(error, lmdb.ReadersFullError):
            return RackError(f"{path}: more than {_MAX_READERS} threads read this shard at once")
        if error.code == errno.EBUSY or "same thread" in str(error):
            return ReentrantWriteError(f"{path}: a write inside another write; a serializer must not use the store")
        if error.code in _NO_SPACE:
            return StoreFullError(error.code, f"{error}; nothing was changed", path)
        if error.code in (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            return StorePathError(error.code, str(error), path)
        return CorruptShardError(f"{path}: {error}. The shard is damaged; restore it from a copy")

    def long_keys(self, key: bytes) -> LongKeys:
        if self._long is None:
            raise ElementTooLongError(
                f"an element of {len(key)} bytes when serialized: rack.set_small holds 1 to {_MAX_KEY};"
                " use rack.set for longer ones"
            )
        return self._long

    # The file

    def _open(self) -> None:
        spec = self._spec
        with contextlib.ExitStack() as stack:
            try:
                if not spec.readonly:
                    fd = stack.enter_context(lmdbfile.growth_lock(spec.path))
                else:
                    fd = os.open(spec.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
            except FileNotFoundError:
                raise CorruptShardError(
                    errno.ENOENT, "a shard of the store is missing; restore it from a copy", spec.path
                ) from None
            except OSError as error:
                if isinstance(error, RackError):
                    raise
                raise StorePathError(error.errno, error.strerror, spec.path) from error
            lmdbfile.check_header(fd, spec.path)
            status = os.fstat(fd)
            size = status.st_size
            if not spec.readonly and size % lmdbfile.PAGE:  # a growth that was cut short
                lmdbfile.extend(fd, size, lmdbfile.grown(size, 1), spec.path)
                size = os.fstat(fd).st_size
            try:
                env = _open_env(spec, size)
            except lmdb.Error as error:
                raise self._translated(error) from error
        try:
            if env.max_key_size() != _MAX_KEY:
                raise RackError(f"this build of LMDB has keys of {env.max_key_size()} bytes; Rack needs {_MAX_KEY}")
            if not spec.readonly:
                env.reader_check()
            main = env.open_db()
            self._check_identity(env)
            self._long = None
            if spec.layout != "small":
                self._long = LongKeys(env.open_db(_LONG_TABLE, create=False), spec.hash)
        except lmdb.Error as error:
            env.close()
            raise self._translated(error) from error
        except BaseException:
            env.close()
            raise
        self._env, self._main = env, main
        self._begin = env.begin if self._check_write is None else self._begin_checked
        self._inode = lmdbfile.file_id(status)

    def _check_identity(self, env: Any) -> None:
        with env.begin() as txn:
            found = txn.get(_IDENTITY)
        expected = _identity(self._spec)
        if found == expected:
            return
        path = self._spec.path
        if found is None:
            raise CorruptShardError(f"{path} is an LMDB file, but not a Rack shard")
        try:
            _, store_id, number, _ = found.decode().split()
        except ValueError:
            raise CorruptShardError(f"{path} has a damaged identity: {found!r}") from None
        if store_id != self._spec.store_id:
            raise CorruptShardError(f"{path} belongs to another store ({store_id}, not {self._spec.store_id})")
        raise CorruptShardError(f"{path} is shard {number} of its store: shard files were swapped or renamed")

    def _begin_reopened(self, *args: Any) -> Any:
        """Stands for ``env.begin`` in a forked child until the shard's first use there."""
        self._rejoin()
        self._open()
        return self._begin(*args)

    def _begin_checked(self, *args: Any) -> Any:
        """Stands for ``env.begin`` once there is a check to make in write transactions (see ``on_write``)."""
        txn = self._env.begin(*args)
        if args and self._check_write is not None:
            try:
                self._check_write()
            except BaseException:
                _abort(txn)
                raise
        return txn

    def _begin_closed(self, *args: Any) -> Any:
        raise NotOpenError("the container is closed; open it with `with` or open()")

    def _adopt_size(self) -> None:
        """Take over the size that another process has given the file."""
        if self._spec.readonly:
            self._env.set_mapsize(os.stat(self._spec.path).st_size)
            return
        with lmdbfile.growth_lock(self._spec.path, self._inode) as fd:
            self._resize(os.fstat(fd).st_size)

    def _grow(self, need: int) -> None:
        """Make room for an operation on ``need`` bytes, unless another process has just made some."""
        self._env.reader_check()  # a dead reader keeps pages from being used again
        with lmdbfile.growth_lock(self._spec.path, self._inode) as fd:
            size = os.fstat(fd).st_size
            if size <= self._env.info()["map_size"]:
                new_size = lmdbfile.grown(size, need)
                lmdbfile.extend(fd, size, new_size, self._spec.path)
                size = new_size
            self._resize(size)

    def _resize(self, size: int) -> None:
        try:
            self._env.set_mapsize(size)
        except lmdb.Error as error:
            # The environment is unusable after a failed remap (address space, memory): open it anew at next use.
            with contextlib.suppress(lmdb.Error):
                self._env.close()
            self._env, self._begin = None, self._begin_reopened
            raise self._translated(error) from error

    # Life

    def close(self, timeout: float | None = None) -> None:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
        try:
            env, self._env, self._begin = self._env, None, self._begin_closed
            self._main = self._long = None
            if env is not None:
                env.close()
        finally:
            self._lock.release()

    def on_write(self, check: Callable[[], None]) -> None:
        with self._lock:
            self._check_write = check
            if self._env is not None:
                self._begin = self._begin_checked

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        # No transaction is alive (before_fork), so closing the copy touches neither the parent's reader slots nor
        # its locks; and LMDB must not be opened a second time while the copy is open.
        self._lock = RLock()
        env, self._env = self._env, None
        if env is not None:
            self._main = self._long = None
            env.close()
            self._begin = self._begin_reopened


SHARD = LmdbShard


def _open_env(spec: ShardSpec, size: int) -> Any:
    always = spec.durability == "always"
    options: dict[str, Any] = {
        "subdir": False,
        "map_size": size,
        "max_dbs": 1,
        "max_readers": _MAX_READERS,
        "max_spare_txns": 0,  # a spare reader would be alive at a fork
        "mode": 0o666,
        "lib_version": 0,
    }
    if not spec.readonly:
        return lmdb.open(spec.path, sync=always, metasync=always, writemap=True, **options)
    try:
        return lmdb.open(spec.path, readonly=True, **options)
    except lmdb.Error as error:
        # Without permission to write the lock file a reader cannot register; nobody who could not either writes.
        if error.code not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        return lmdb.open(spec.path, readonly=True, lock=False, **options)


def _identity(spec: ShardSpec) -> bytes:
    return f"rack-shard-1 {spec.store_id} {spec.number} {spec.layout}".encode()


def _remove_leftover(spec: ShardSpec) -> None:
    """Remove the files of a creation that was killed. The caller holds the store's lock, and there is no manifest."""
    if not os.path.lexists(spec.path):
        return
    in_the_way = CorruptShardError(
        errno.EEXIST,
        "this file is in the way of a new store and may hold data: its store's manifest is missing."
        " Restore the manifest, or move the file away",
        spec.path,
    )
    if not os.path.isfile(spec.path):
        raise in_the_way
    if os.path.getsize(spec.path):
        try:
            env = lmdb.open(spec.path, subdir=False, readonly=True, lock=False, max_dbs=1, lib_version=0)
            try:
                with env.begin() as txn:
                    names = {key for key, _ in txn.cursor()}
                    if not names <= {_IDENTITY, _LONG_TABLE}:
                        raise in_the_way
                    if _LONG_TABLE in names and txn.stat(env.open_db(_LONG_TABLE, txn, create=False))["entries"]:
                        raise in_the_way
            finally:
                env.close()
        except lmdb.Error:
            raise in_the_way from None
    for path in (spec.path, spec.path + "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _abort(txn: Any) -> None:
    with contextlib.suppress(lmdb.Error):  # already committed or invalid
        txn.abort()


def _bytes_in(args: tuple[Any, ...]) -> int:
    """Return about how many bytes of a map an operation with these arguments may need."""
    need = 16 * lmdbfile.PAGE
    for arg in args:
        if isinstance(arg, bytes):
            need += len(arg)
        elif isinstance(arg, list):
            for item in arg:
                need += len(item) if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 16
    return need


# What the operations do inside a transaction. A key is tried as a short one unless it is Rack's own; LMDB refuses
# one that is too long or empty.


def _is_long(key: bytes) -> bool:
    return not 0 < len(key) <= _MAX_KEY or key >= _RESERVED


def _get(shard: LmdbShard, txn: Any, key: bytes) -> bytes | None:
    if _is_long(key):
        return shard.long_keys(key).get(txn, key)
    value: bytes | None = txn.get(key)
    return value


def _contains(shard: LmdbShard, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard.long_keys(key).find(txn, key) is not None
    return bool(txn.cursor().set_key(key))


def _put(shard: LmdbShard, txn: Any, key: bytes, value: bytes) -> None:
    if len(value) > _MAX_VALUE:
        raise TooLargeError(f"a value of {len(value)} bytes: LMDB holds up to {_MAX_VALUE}")
    if _is_long(key):
        shard.long_keys(key).put(txn, key, value)
    else:
        txn.put(key, value)


def _add(shard: LmdbShard, txn: Any, key: bytes, value: bytes) -> bytes | None:
    present = _get(shard, txn, key)
    if present is None:
        _put(shard, txn, key, value)
    return present


def _delete(shard: LmdbShard, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard.long_keys(key).delete(txn, key)
    return bool(txn.delete(key))


def _pop(shard: LmdbShard, txn: Any, key: bytes) -> bytes | None:
    value = _get(shard, txn, key)
    if value is not None:
        _delete(shard, txn, key)
    return value


def _pop_first(shard: LmdbShard, txn: Any) -> Pair | None:
    block = _scan(shard, txn, None, False, True, 1)
    if not block:
        return None
    pair: Pair = block[0]
    _delete(shard, txn, pair[0])
    return pair


def _modify(
    shard: LmdbShard, txn: Any, key: bytes, change: Callable[[bytes | None], bytes | None]
) -> None:
    value = change(_get(shard, txn, key))
    if value is not None:
        _put(shard, txn, key, value)


def _get_many(shard: LmdbShard, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    return [txn.get(key) if 0 < len(key) <= _MAX_KEY and key < _RESERVED else _get(shard, txn, key) for key in keys]


def _put_many(shard: LmdbShard, txn: Any, pairs: list[Pair]) -> None:
    short = sorted(pair for pair in pairs if not _is_long(pair[0]))
    txn.cursor().putmulti(short)
    if len(short) < len(pairs):
        for key, value in pairs:
            if _is_long(key):
                _put(shard, txn, key, value)


def _add_many(shard: LmdbShard, txn: Any, pairs: list[Pair]) -> list[bool]:
    put = txn.put
    added = []
    for key, value in pairs:
        if _is_long(key):
            added.append(_add(shard, txn, key, value) is None)
        else:
            added.append(put(key, value, True, False))
    return added


def _delete_many(shard: LmdbShard, txn: Any, keys: list[bytes]) -> int:
    return sum(_delete(shard, txn, key) for key in keys)


def _scan(
    shard: LmdbShard, txn: Any, after: bytes | None, reverse: bool, values: bool, limit: int = _BLOCK_ITEMS
) -> list[Any]:
    block = _scan_short(txn, after, reverse, values, limit)
    long = shard._long
    if long is not None and long.count(txn):
        block += long.scan(txn, after, reverse, values, limit, _BLOCK_BYTES)
        block.sort(reverse=reverse)  # two runs; keys are unique, so values are never compared
        del block[limit:]
    return block


def _scan_short(txn: Any, after: bytes | None, reverse: bool, values: bool, limit: int) -> list[Any]:
    cursor = txn.cursor()
    if reverse:
        # Everything from _RESERVED on is Rack's own or a long key, and Rack's own records are always there.
        bound = _RESERVED if after is None else min(after, _RESERVED)
        if not bound:
            return []
        cursor.set_range(bound[:_MAX_KEY])
        if cursor.key() >= bound and not cursor.prev():
            return []
        items = cursor.iterprev(values=values)
    else:
        cursor.set_range(after[:_MAX_KEY] if after else b"\0")
        if after is not None and cursor.key() <= after and not cursor.next():
            return []
        items = cursor.iternext(values=values)
    if values and txn.stat()["overflow_pages"]:
        block = _bounded(items, limit)
    else:
        block = list(islice(items, limit))  # no value here is larger than about half a page
    while block and (block[-1][0] if values else block[-1]) >= _RESERVED:
        block.pop()
    return block


def _bounded(items: Any, limit: int) -> list[Pair]:
    block = []
    size = 0
    for pair in islice(items, limit):
        block.append(pair)
        size += len(pair[1])
        if size >= _BLOCK_BYTES:
            break
    return block


def _count(shard: LmdbShard, txn: Any) -> int:
    entries: int = txn.stat()["entries"] - 1
    if shard._long is not None:
        entries += shard._long.count(txn) - 1
    return entries


def _clear(shard: LmdbShard, txn: Any) -> None:
    # Dropping the main database takes Rack's records with it; LMDB writes that of the table of long keys at commit,
    # because emptying that table has marked it changed.
    if shard._long is not None:
        txn.drop(shard._long.table, delete=False)
    txn.drop(shard._main, delete=False)
    txn.put(_IDENTITY, _identity(shard._spec))


def _version(shard: LmdbShard, txn: Any) -> int:
    txn_id: int = txn.id()
    return txn_id


def _check(shard: LmdbShard, txn: Any) -> None:
    path = shard._spec.path
    last = b""
    found = 0
    for key in txn.cursor().iternext(values=False):
        if key <= last:
            raise CorruptShardError(f"{path}: keys are out of order at {key!r}")
        last = key
        found += 1
    if found != txn.stat()["entries"]:
        raise CorruptShardError(f"{path}: counts {txn.stat()['entries']} records and has {found}")
    if txn.get(_IDENTITY) != _identity(shard._spec):
        raise CorruptShardError(f"{path}: its identity is wrong")
    if shard._long is not None:
        shard._long.check(txn, path)
