"""Stores with digest keys on the command line: made, asked, changed, written and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from rack import Digest, PersistentDict, PersistentSet
from rack.codec.keys import resolve_codec
from rack.codec.serdes import MARSHAL
from tests.support.commands import Rack
from tests.support.commands import rack as rack
from tests.support.processes import end_sound as end_sound

Set = PersistentSet[Any]
Dict = PersistentDict[Any, Any]


def digests(*keys: Any) -> set[Digest]:
    return {Digest(resolve_codec("digest", MARSHAL).dumps(key)) for key in keys}


# dedup


@pytest.mark.parametrize("workers", [1, 2])
def test_dedup_makes_a_store_of_digests_and_goes_on_with_it(rack: Rack, workers: int) -> None:
    Path("f").write_bytes(b"a\nb\n\na\n\xff\n")
    done = rack("dedup", "s", "f", "--digest", "-q", "--workers", workers)
    assert sorted(done.output.splitlines()) == ["", "a", "b", "\ufffd"]
    for options in ([], ["--digest"]):
        assert rack("dedup", "s", "-q", *options, data=f"b\nc{len(options)}\n").output == f"c{len(options)}\n"
    assert rack("dedup", "s", "-q", "--count", data="b\nd\n").output == "read\t2\nnew\t1\nseen\t1\n"
    with Set("s") as s:
        assert (s.serdes, s.key_serdes, len(s)) == ("bytes", "digest", 7)
        assert all(line in s for line in (b"a", b"b", b"", b"\xff", b"c0", b"c1", b"d"))
        assert "a" not in s
        assert xxhash.xxh3_128_digest(b"a") in set(map(bytes, s))
        s.add(b"e")
        s.check()
    assert rack("dedup", "s", "-q", data="e\nf\n").output == "f\n"
    assert rack("has", "s", "e").code == 0
    assert rack("has", "s", "g").code == 1


def test_dedup_takes_whatever_digests_of_lines_there_are(rack: Rack) -> None:
    for number, (serdes, key_serdes) in enumerate(
        [("str", "digest"), ("bytes", "digest:sha256"), ("str", "digest:sha512:32")]
    ):
        with Set(f"s{number}", serdes=serdes, key_serdes=key_serdes) as s:
            s.add("a" if serdes == "str" else b"a")
        assert rack("dedup", f"s{number}", "-q", data="a\né\n").output == "é\n"
        with Set(f"s{number}", flag="r") as s:
            assert ("é" if serdes == "str" else "é".encode()) in s
        bad = rack("dedup", f"s{number}", "-q", data=b"x\n\xff\n")
        assert ("is not UTF-8" in bad.errors) == (serdes == "str")


def test_a_store_of_whole_lines_becomes_one_of_digests_by_a_copy(rack: Rack) -> None:
    rack("dedup", "whole", "-q", data="a\nb\n")
    assert rack("copy", "whole", "s", "--key-serdes", "digest", "--workers", 2, "-q").code == 0
    assert rack("dedup", "s", "--digest", "-q", data="b\nc\n").output == "c\n"
    assert rack("compare", "whole", "s") == (1, "only in A\t0\nonly in B\t1\nin both\t2\n", "")
    assert rack("compare", "s", "whole") == (1, "only in A\t1\nonly in B\t0\nin both\t2\n", "")
    rack("dedup", "today", "-q", data="b\nd\n")
    assert rack("diff", "today", "s", "-q").output == "d\n"
    assert rack("intersect", "s", "today", "-q").output == f"{xxhash.xxh3_128_hexdigest(b'b')}\n"
    with Set("text", serdes="str") as text, Set("digests-of-text", serdes="str", key_serdes="digest") as other:
        text.update("bx")
        other.update("bx")
    assert rack("diff", "text", "s", "-q").output == "x\n"
    assert rack("diff", "text", "digests-of-text", "-q").output == ""
    assert "has digests of text" in rack("diff", "today", "digests-of-text", "-q").errors


# Single keys


def test_keys_are_given_as_they_are_and_digests_are_written_in_hex(rack: Rack) -> None:
    assert rack("add", "s", "'a'", "--create", "--key-serdes", "digest").code == 0
    assert rack("add", "s", "a", "--key", "text").code == 1
    assert rack("has", "s", "5").code == 1
    (a,) = digests("a")
    assert rack("keys", "s").output == rack("scan", "s").output == f"{a.hex()}\n"
    lines = rack("keys", "s", "--json").output
    assert json.loads(lines) == {"$digest": a.hex()}
    assert rack("has", "s", "-", "--key", "json", data=lines).output == lines
    assert rack("del", "s", lines.strip(), "--key", "json").code == 0
    assert rack("count", "s").output == "0\n"
    assert rack("incr", "d", "('k', 1)", 2, "--create", "--key-serdes", "digest:sha256:20").output == "2\n"
    assert rack("set", "d", "x", "[1]", "--key", "text").code == 0
    assert rack("get", "d", "('k', 1)").output == "2\n"
    with Dict("d") as d:
        assert {*rack("items", "d").output.splitlines()} == {f"{key.hex()}\t{value}" for key, value in d.items()}
        assert (d["x"], d["k", 1], d.key_serdes) == ([1], 2, "digest:sha256:20")
    assert "serdes marshal, key serdes digest:sha256:20," in rack("stat", "d").output
    assert json.loads(rack("ls", ".", "--json").output.splitlines()[0])["key_serdes"] == "digest:sha256:20"


# Dumps


def test_a_dump_of_digests_makes_a_store_of_digests(rack: Rack) -> None:
    with Set("s", key_serdes="digest", serdes="json") as s, Dict("d", key_serdes="digest:blake2b") as d:
        s.update(["a", 5, None])
        d.update({"a": [1], b"a": 2})
    for name, options in (("s", []), ("s", ["--serdes", "str"]), ("d", []), ("d", ["--workers", 2])):
        assert rack("dump", name, "f.jsonl", "-q").code == 0
        assert rack("load", "new", "f.jsonl", "-q", "--new", *options).code == 0
        assert rack("compare", name, "new", "-q").code == 0
        assert rack("verify", "new", "-q").code == 0
        assert rack("rm", "new", "--yes").code == 0
    refused = rack("load", "whole", "f.jsonl", "-q", "--key-serdes", "marshal")
    assert refused.code == 1
    assert "line 2 of f.jsonl: Digest.fromhex(" in refused.errors
    assert "this store has whole keys; whole was not made" in refused.errors


def test_whole_keys_are_loaded_into_a_store_of_digests(rack: Rack) -> None:
    with Dict("d") as d:
        d.update({"a": 1, ("b", 2): 2})
    rack("dump", "d", "f.jsonl", "-q")
    assert rack("load", "new", "f.jsonl", "-q", "--key-serdes", "digest").code == 0
    with Dict("new") as new, Dict("d") as d:
        assert new == d
        assert {*new} == digests(*d)
    Path("f.csv").write_text("key,value\na,3\n")
    assert rack("load", "t", "f.csv", "-q", "--key-serdes", "digest").code == 0
    with Dict("t") as t:
        assert t["a"] == "3"
    assert rack("load", "lines", "f.csv", "-q", "--key-serdes", "digest", "--kind", "set").code == 0
    with Set("lines") as lines:
        assert "a" in lines
        assert rack("has", "lines", "a").code == 0
    assert rack("dump", "t", "t.csv", "-q").code == 0
    assert Path("t.csv").read_text() == f"key,value\n{next(iter(digests('a'))).hex()},3\n"
    assert rack("dump", "t", "t.csv", "-q", "--key", "json").code == 0
    assert rack("load", "t2", "t.csv", "-q", "--key", "json", "--key-serdes", "digest").code == 0
    assert rack("compare", "t", "t2", "-q").code == 0


def test_a_repair_is_told_what_digests_cannot_tell(rack: Rack) -> None:
    rack("dedup", "s", "--digest", "-q", data="a\n\xff\n")
    Path("s.rack").unlink()
    assert "as digests are" in rack("repair", "s", "--to", "guessed").output
    assert rack("repair", "s", "--to", "told", "--serdes", "bytes", "--key-serdes", "digest").code == 1
    assert rack("dedup", "told", "-q", data="a\nb\n").output == "b\n"
