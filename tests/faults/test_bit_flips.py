"""Bits of a shard's file that flip: an error, or the right answer; never a crash that the verifier does not foretell.

Neither engine has checksums. A bit that flips inside the bytes of a key, or of a value too short to be sealed (LMDB: up
to 1,500 bytes; SQLite: any), cannot be noticed by anybody: such cases are told from the rest and counted.
"""

from __future__ import annotations

import collections
import faulthandler
import os
import pickle
import random
import shutil
import signal
import traceback
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, RackError
from rack.shard import shard_class
from rack.shard.lmdb.walk import findings
from tests.support.processes import default_engine
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

PAGE = 4096
Dict = PersistentDict[bytes, bytes]


def _content(chance: random.Random) -> dict[bytes, bytes]:
    return {
        **{b"key %d" % number: chance.randbytes(chance.randrange(1, 200)) for number in range(300)},
        **{b"long %d " % number * 100: chance.randbytes(50) for number in range(20)},
        **{b"large %d" % number: chance.randbytes(chance.randrange(1600, 20_000)) for number in range(10)},
    }


def _flipped(data: bytes, count: int, chance: random.Random) -> bytes:
    """Flip bits: anywhere, in the first pages, at the beginning of some page, or all in one page."""
    changed = bytearray(data)
    where = chance.choice(["anywhere", "first pages", "page headers", "one page"])
    page = chance.randrange(len(data) // PAGE) * PAGE
    for _ in range(count):
        at = {
            "anywhere": lambda: chance.randrange(len(data)),
            "first pages": lambda: chance.randrange(min(2, len(data) // PAGE)) * PAGE + chance.randrange(200),
            "page headers": lambda: chance.randrange(len(data) // PAGE) * PAGE + chance.randrange(64),
            "one page": lambda: page + chance.randrange(PAGE),
        }[where]()
        changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _look(path: Path) -> Any:
    """Open the store and read everything in every way; return (the content, whether check() passes), or an error.

    The content is None if reading in different ways gives different answers.
    """
    try:
        with Dict(path, flag="w") as store:
            keys, pairs, count = list(store), dict(store.items()), len(store)
            agree = keys == list(pairs) and count == len(keys) and store.get_many(keys) == pairs
            agree = agree and all(store.get(key) == value for key, value in pairs.items())
            try:
                passes = store.check() == len(keys)
            except RackError:
                passes = False
            return pairs if agree else None, passes
    except (RackError, MemoryError) as error:  # of a value whose length was damaged
        return type(error)
    except Exception:
        return traceback.format_exc()


def _in_a_child(path: Path, answer: Path) -> Any:
    """Look at the store in a process of its own; return what it found, or the signal that it died by."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(30)
        found = _look(path)
        answer.write_bytes(pickle.dumps(found))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status))
    return pickle.loads(answer.read_bytes())


def _distance(found: dict[bytes, bytes], content: dict[bytes, bytes]) -> int | None:
    """Return how many bits of keys and values differ, None if it is more than that."""
    lost, new = content.keys() - found.keys(), found.keys() - content.keys()
    if len(lost) != len(new):
        return None
    bits = 0
    for key in content.keys() & found.keys():
        bits += _bits(content[key], found[key])
    for key in lost:
        bits += min(_bits(key, other) + _bits(content[key], found[other]) for other in new)
    return bits


def _bits(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return 1 << 30
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


@pytest.mark.one_in(2)
@pytest.mark.timeout(1500)
def test_flipped_bits_are_an_error_or_do_no_harm(tmp_path: Path, seed: int, long: bool) -> None:
    chance = random.Random(seed)
    path = tmp_path / "store"
    content = _content(chance)
    with Dict(path, serdes="bytes", shards=1) as store:
        store.update((b"gone %d" % number, bytes(500)) for number in range(200))
        store.delete_many(list(store))
        store.update(content)
    file = Path(f"{path}-0000{shard_class(default_engine()).suffix}")
    good = file.read_bytes()
    kept = tmp_path / "kept"
    kept.mkdir()
    for each in tmp_path.glob("store*"):
        shutil.copy(each, kept)

    counts: collections.Counter[str] = collections.Counter()
    for number in range(2000 if long else 120):
        flips = chance.choice([1, 1, 2, 8])
        damaged = _flipped(good, flips, chance)
        for each in tmp_path.glob("store*"):
            each.unlink()
        for each in kept.iterdir():
            shutil.copy(each, tmp_path)
        file.write_bytes(damaged)
        foretold = default_engine() == "lmdb" and any(findings(str(file)))
        found = _in_a_child(path, tmp_path / "answer")
        case = f"case {number}, {flips} bits: {str(found)[-600:]}"
        if isinstance(found, signal.Signals):
            assert found != signal.SIGALRM, f"hangs: {case}"
            assert foretold, f"a crash that was not foretold: {case}"
            counts["crash that the verifier foretells"] += 1
        elif isinstance(found, type):
            counts["error"] += 1
        elif not isinstance(found, tuple):
            raise AssertionError(f"not an error of Rack's: {case}")
        elif found[0] == content:
            counts["right answer"] += 1
        elif not found[1]:
            counts["wrong, and check() says so"] += 1
        elif foretold:
            counts["wrong, and the verifier says so"] += 1
        else:
            distance = None if found[0] is None else _distance(found[0], content)
            assert distance is not None, f"wrong, and nobody notices: {case}"
            assert distance <= flips, f"wrong, and nobody notices: {case}"
            counts["inside a small key or value"] += 1
    print(default_engine(), dict(counts))
