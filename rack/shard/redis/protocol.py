"""Commands as bytes. A command is packed once: also where it is sent again, to another server."""

from __future__ import annotations

from collections.abc import Iterable

#: The largest string that Redis holds.
LONGEST = 512 << 20


def pack(*words: bytes) -> bytes:
    """Return a command as the protocol has it (RESP, an array of strings)."""
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


def head(count: int, *words: bytes) -> bytes:
    """Return the beginning of a command of ``count`` words."""
    return b"*%d\r\n%b" % (count, strings(words))


def strings(words: Iterable[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


_POLYNOMIAL = 0x1021


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ _POLYNOMIAL if crc & 0x8000 else crc << 1
        table.append(crc & 0xFFFF)
    return table


_CRC = _table()
SLOTS = 16384


def slot_of(tag: bytes) -> int:
    """Return the slot of a cluster that keys with this hash tag are in: CRC16 (XMODEM) modulo 16384."""
    crc = 0
    for byte in tag:
        crc = ((crc << 8) & 0xFF00) ^ _CRC[(crc >> 8) ^ byte]
    return crc % SLOTS
