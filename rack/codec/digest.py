"""Digests of keys: what a store with the key serdes "digest" has in place of them.

A digest is of the key's canonical bytes. Of bytes and str it is of what they hold (UTF-8), and a *tag* keeps these
apart from each other and from all else: the seed of xxh3, and a byte in front of what the functions of hashlib are
given. So the digest of bytes is plain ``xxh3_128``, which other programs have as well.
"""

from __future__ import annotations

from collections.abc import Callable

from xxhash import xxh3_128_digest

from rack.errors import DigestKeysError, SerializationError
from rack.system.imports import importing

#: Returns the digest of some bytes. The tag says of what these are: BYTES, the default, TEXT or OTHER.
Digester = Callable[..., bytes]
BYTES, TEXT, OTHER = range(3)

NAME = "digest"
ALGORITHMS = ("sha256", "sha512", "sha3_256", "blake2b", "blake2s")
SIZE, MOST = 16, 32  # bytes
_TAGS = (b"\0", b"\1", b"\2")


class Digest(bytes):
    """The digest of a key: what a store with digest keys gives in place of the key.

    Such a store takes it for the key itself: ``d[digest]``, ``digest in s`` and ``s.discard(digest)`` do what they
    would do with the key. So what a loop over the store gives can be used in it, and in others with the same key
    serdes. Other stores refuse it: a key cannot be had back from its digest.

    It is ``bytes`` with all their methods. But it equals no bytes: they are another key, with another digest.

    >>> from rack import Digest, PersistentSet
    >>> with PersistentSet(tmp / "seen", key_serdes="digest") as seen:
    ...     seen.update([b"a", b"b"])
    ...     for digest in seen:
    ...         digest, digest in seen, bytes(digest) in seen, seen.discard(digest)
    ...     len(seen)
    (Digest.fromhex('4b2212e31ac97fd4575a0b1c44d8843f'), True, False, True)
    (Digest.fromhex('a96faf705af16834e6c632b61e964e1f'), True, False, True)
    0
    """

    __slots__ = ()

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return type(other) is Digest and bytes.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return type(other) is not Digest or bytes.__ne__(self, other)

    def __repr__(self) -> str:
        return f"Digest.fromhex({self.hex()!r})"

    __str__ = __repr__


def is_named(name: object) -> bool:
    """Whether a name is one of digests, though perhaps not a right one."""
    return isinstance(name, str) and name.partition(":")[0] == NAME


def normalized(name: str) -> str:
    """Return the one name for what ``name`` means: a size that is the default is left out.

    :raises ValueError: it means nothing.
    """
    _, *parts = name.split(":")
    if not parts:
        return NAME
    algorithm, *sizes = parts
    size = str(SIZE) if not sizes else sizes[0]
    if algorithm not in ALGORITHMS or len(sizes) > 1 or size not in map(str, range(SIZE, MOST + 1)):
        raise ValueError(
            f"{name!r} is no digest: that is 'digest', or 'digest:FUNCTION' or 'digest:FUNCTION:BYTES' with one of the"
            f" functions {', '.join(ALGORITHMS)}, and {SIZE} to {MOST} bytes"
        )
    return f"{NAME}:{algorithm}" if size == str(SIZE) else f"{NAME}:{algorithm}:{size}"


def is_normal(name: object) -> bool:
    """Whether a name is the one name for some digests, as it is recorded."""
    try:
        return is_named(name) and normalized(str(name)) == name
    except ValueError:
        return False


def digester(name: str) -> tuple[Digester, int]:
    """Return the function that a normalized name means, and how many bytes it gives."""
    _, *parts = name.split(":")
    if not parts:
        return xxh3_128_digest, SIZE
    with importing():
        import hashlib

    make = getattr(hashlib, parts[0])
    size = int(parts[1]) if len(parts) > 1 else SIZE

    def digest(data: bytes, tag: int = BYTES) -> bytes:
        return make(_TAGS[tag] + data).digest()[:size]  # type: ignore[no-any-return]

    return digest, size


def stored(key: Digest, size: int, name: str) -> bytes:
    """Return the bytes of a digest that is given as a key.

    :raises SerializationError: it is none of these digests.
    """
    if len(key) != size:
        raise SerializationError(f"a digest of {len(key)} bytes is no key here: those of key serdes {name} have {size}")
    return bytes(key)


def check_no_digest(key: object) -> None:
    """:raises DigestKeysError: it is a digest, given as a key to a store that has whole keys."""
    if type(key) is Digest:
        raise DigestKeysError(f"{key!r} is the digest of a key, and this store has whole keys")
