"""Damage done to files at random, as failing disks and power failures do it; and LMDB in a process that may crash."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import lmdb

PAGE = 4096

Damage = Callable[[bytearray, random.Random], None]


def _pages(data: bytearray) -> int:
    return len(data) // PAGE


def _any_page(data: bytearray, chance: random.Random) -> slice:
    at = chance.randrange(_pages(data)) * PAGE
    return slice(at, at + PAGE)


def swap_pages(data: bytearray, chance: random.Random) -> None:
    one, two = _any_page(data, chance), _any_page(data, chance)
    data[one], data[two] = data[two], data[one]


def copy_page(data: bytearray, chance: random.Random) -> None:
    """A page twice, in the place of another and with its number: a loop in the tree, or a page in two places."""
    one, two = _any_page(data, chance), _any_page(data, chance)
    number = data[one][:8]
    data[one] = data[two]
    if chance.random() < 0.5:
        data[one.start : one.start + 8] = number


def zero_page(data: bytearray, chance: random.Random) -> None:
    data[_any_page(data, chance)] = bytes(PAGE)


def noise_in_page(data: bytearray, chance: random.Random) -> None:
    data[_any_page(data, chance)] = chance.randbytes(PAGE)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_bits_in_header(data: bytearray, chance: random.Random) -> None:
    """A bit of what a page says of itself, of the places of its nodes, or of a meta page."""
    page = chance.choice((0, PAGE, _any_page(data, chance).start, _any_page(data, chance).start))
    data[page + chance.randrange(160)] ^= 1 << chance.randrange(8)


def copy_number(data: bytearray, chance: random.Random) -> None:
    """Eight bytes of a page, such as the number of another page, again elsewhere in it."""
    page = _any_page(data, chance).start
    one, two = (page + chance.randrange(0, PAGE - 8, 2) for _ in range(2))
    data[one : one + 8] = data[two : two + 8]


def torn_page(data: bytearray, chance: random.Random) -> None:
    """The first sectors of a page are of another one."""
    one, two = _any_page(data, chance), _any_page(data, chance)
    cut = 512 * chance.randrange(1, 8)
    data[one.start : one.start + cut] = data[two.start : two.start + cut]


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


DAMAGES: tuple[Damage, ...] = (
    swap_pages,
    copy_page,
    zero_page,
    noise_in_page,
    flip_bits,
    flip_bits_in_header,
    flip_bits_in_header,
    copy_number,
    torn_page,
    truncate,
)


def damage(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Return the data damaged in one to three ways, and what was done."""
    damaged = bytearray(data)
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if len(damaged) >= PAGE:
            chosen = chance.choice(DAMAGES)
            chosen(damaged, chance)
            done.append(chosen.__name__)
    return bytes(damaged), ", ".join(done)


def in_child(work: Callable[[], object], limit: int = 60) -> int:
    """Run ``work`` in a forked process; return the signal that ended it, or 0. Python's errors are no matter."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LMDB tells of a failed assertion
        signal.alarm(limit)
        try:
            work()
        except Exception:
            pass
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def use_with_lmdb(path: Path, seed: int) -> None:
    """Read all of an LMDB file of Rack's, then write to it."""
    size = path.stat().st_size
    with lmdb.open(str(path), subdir=False, max_dbs=1, map_size=2 * size, lib_version=0) as env:
        table = None
        with env.begin() as txn:
            if txn.get(b"\x01") is not None:
                table = env.open_db(b"\x01", txn, create=False)
            keys = list(txn.cursor().iternext(values=False))
            for key in keys:
                if key != b"\x01":
                    txn.get(key)
            list(txn.cursor().iterprev())
            if table is not None:
                for cursor in (txn.cursor(table).iternext(), txn.cursor(table).iterprev()):
                    list(cursor)
            list(txn.cursor(db=None))
        chance = random.Random(seed)
        for _ in range(20):
            with env.begin(write=True) as txn:
                for _ in range(20):
                    txn.put(chance.randbytes(chance.randrange(1, 400)) + b"!", b"x" * chance.choice((1, 100, 9000)))
                for key in chance.sample(keys, min(20, len(keys))):
                    if len(key) > 1:
                        txn.delete(key)
