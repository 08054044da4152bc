"""Values that are long for LMDB carry a checksum, so that a torn one is an error and never an answer.

A value of more than :data:`PLAIN` bytes is stored with eight bytes behind it, the xxh3_64 of the value. LMDB keeps a
long value in pages of its own. After a power failure some of them may be old and some new, which no check of the
file's structure can see; a shorter value is in one page, and that is either old or new.
"""

from __future__ import annotations

from xxhash import xxh3_64_digest

from rack.errors import CorruptShardError

PLAIN = 1500  # bytes; with the longest key (511) that still is in a leaf page of 4 KiB (nodes of up to 2038)
_DIGEST = 8


def seal(value: bytes) -> bytes:
    """Return what is stored for ``value``."""
    return value if len(value) <= PLAIN else value + xxh3_64_digest(value)


def unseal(stored: bytes, path: str) -> bytes:
    """Return the value of which ``stored`` was made; ``path`` is that of the shard.

    :raises CorruptShardError: it is not what was stored.
    """
    if len(stored) <= PLAIN:
        return stored
    value = stored[:-_DIGEST]
    if xxh3_64_digest(value) != stored[-_DIGEST:]:
        raise CorruptShardError(f"{path}: a value of {len(value)} bytes does not match its checksum: {value[:40]!r}...")
    return value
