"""Reading inputs: blocks of whole records, parts that fit together, compressed files and their damages."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rack
from rack.cli import inputs, sources
from rack.cli.inputs import Input, InputError, PlainFile, Stream, blocks
from rack.cli.sources import Part, Source

zstandard = pytest.importorskip("zstandard")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=1),
    ".zst": zstandard.compress,
}
SUFFIXES = pytest.mark.parametrize("suffix", [*COMPRESS])


class Pieces(Input):
    """An input that gives its bytes in the pieces it was made with, then raises ``error`` if there is one."""

    def __init__(self, pieces: list[bytes], error: Exception | None = None) -> None:
        super().__init__(io.FileIO(os.devnull))
        self._pieces = [piece for piece in pieces if piece]
        self._error = error

    def read(self, size: int) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._error:
            raise self._error
        return b""


def records(found: list[bytes], separator: bytes = b"\n") -> list[bytes]:
    return [record for block in found for record in block.split(separator)]


def expected(data: bytes, separator: bytes = b"\n") -> list[bytes]:
    pieces = data.split(separator)
    return pieces if pieces[-1] else pieces[:-1]


texts = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"bc", b"\0", b"\r"]), max_size=30).map(b"".join)


@given(st.lists(texts, max_size=8), st.sampled_from([b"\n", b"\0"]))
def test_blocks_hold_each_record_once_however_the_bytes_arrive(pieces: list[bytes], separator: bytes) -> None:
    with Pieces(pieces) as source:
        assert records([*blocks(source, separator)], separator) == expected(b"".join(pieces), separator)


@given(texts, st.sampled_from([b"\n", b"\0"]), st.integers(1, 5))
def test_portions_of_a_block_hold_each_record_once(data: bytes, separator: bytes, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "RECORDS", most)
        found = [*inputs.portions(data, separator)]
    assert [record for portion in found for record in portion] == data.split(separator)
    assert all(len(portion) <= most for portion in found)


@pytest.mark.parametrize("longest", [0.0, inputs.LONGEST])  # with 0.0 the time is always over when it is looked at
def test_what_comes_through_a_pipe_without_a_pause_is_handed_on_soon(
    longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LONGEST", longest)
    for_reading, for_writing = os.pipe()
    stop = threading.Event()

    def write() -> None:
        end = time.monotonic() + 20
        while not stop.wait(0.005) and time.monotonic() < end:
            os.write(for_writing, b"line\n")
        os.close(for_writing)

    writer = threading.Thread(target=write)
    with Stream(for_reading, lambda: None) as source:
        writer.start()
        try:
            began = time.monotonic()
            assert set(source.read(1 << 20).split()) == {b"line"}
            assert time.monotonic() < began + 5
        finally:
            stop.set()
            writer.join()
    os.close(for_reading)


def test_a_failing_input_gives_its_whole_records_first_and_never_a_cut_one() -> None:
    got: list[bytes] = []
    with Pieces([b"a\nb", b"b\nc"], OSError("broken")) as source, pytest.raises(OSError, match="broken"):
        got.extend(blocks(source, b"\n"))
    assert records(got) == [b"a", b"bb"]


@given(texts, st.sets(st.integers(1, 60), max_size=6))
def test_parts_of_a_file_hold_each_record_once_wherever_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: set[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "parts"
    path.write_bytes(data)
    ends = [*sorted(cuts), None]
    got: list[bytes] = []
    for start, end in zip([0, *sorted(cuts)], ends, strict=True):
        with PlainFile(str(path), b"\n", start, end) as source:
            got += records([*blocks(source, b"\n", size=3)])
    assert got == expected(data)


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 24, 25, 26, 100, 1000, 4321])
def test_a_source_is_cut_into_parts_that_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, workers: int
) -> None:
    monkeypatch.setattr(sources, "PART", (10, 50))
    data = random.Random(size).randbytes(size).replace(b"\xff", b"\n")
    (tmp_path / "f").write_bytes(data)
    source = Source.of(str(tmp_path / "f"))
    parts = [*source.parts(workers)]
    assert parts[-1].end is None
    assert len(parts) == 1 or size > 10
    blocks_of_parts = [block for part in parts for block in part.blocks(b"\n")]
    assert records([block for block, _ in blocks_of_parts]) == expected(data)
    assert sum(consumed for _, consumed in blocks_of_parts) == size


@SUFFIXES
def test_a_compressed_file_is_read_by_its_suffix(tmp_path: Path, suffix: str) -> None:
    lines = [b"%d" % number for number in range(50_000)]
    path = tmp_path / f"f{suffix}"
    # Two streams in a row are one file, for each of these formats.
    path.write_bytes(COMPRESS[suffix](b"\n".join(lines)) + COMPRESS[suffix](b"\nlast\n"))
    found = [*Part(str(path)).blocks(b"\n")]
    assert records([block for block, _ in found]) == [*lines, b"last"]
    assert sum(consumed for _, consumed in found) == path.stat().st_size


@SUFFIXES
def test_a_compressed_bomb_is_read_in_bounded_blocks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(COMPRESS[suffix](b"\n" * (64 << 20)))
    largest = total = 0
    with inputs.open_compressed(str(path)) as source:
        while data := source.read(inputs.BLOCK):
            largest = max(largest, len(data))
            total += len(data)
    assert total == 64 << 20
    assert largest <= 20 << 20  # zstd, whose output can only be limited by its input


@SUFFIXES
@pytest.mark.parametrize("damage", ["truncated", "garbled", "foreign"])
def test_a_damaged_compressed_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, damage: str) -> None:
    rng = random.Random(1)
    lines = [rng.randbytes(40).hex().encode() for _ in range(20_000)]
    data = COMPRESS[suffix](b"\n".join(lines) + b"\n")
    half = len(data) // 2
    path = tmp_path / f"f{suffix}"
    garbled = data[:half] + bytes(500) + data[half + 500 :]
    path.write_bytes({"truncated": data[:half], "garbled": garbled, "foreign": b"\n".join(lines)}[damage])
    got: list[bytes] = []
    with pytest.raises(InputError, match=f"f\\{suffix}: .+"):
        got.extend(block for block, _ in Part(str(path)).blocks(b"\n"))
    found = records(got)
    if damage == "foreign":
        assert found == []
    if damage == "truncated":
        assert found == lines[: len(found)]  # and no line that is cut
        assert suffix == ".bz2" or len(found) > 2_500  # bzip2 has blocks of 900 kB


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert [*Source.of(str(tmp_path / "f")).blocks(b"\n", lambda: None)] == []
    assert [*Part(str(tmp_path / "f")).blocks(b"\n")] == []


def test_a_stream_calls_idle_while_there_is_nothing_and_gives_what_there_is() -> None:
    reader, writer = os.pipe()
    called = []

    def idle() -> None:
        called.append(True)
        os.write(writer, b"a\nb")

    try:
        with Stream(reader, idle) as source:
            assert source.read(100) == b"a\nb"
            assert source.read(2) == b"a\n"
            os.close(writer)
            assert source.read(100) == b"b"
            assert source.read(100) == b""
            assert source.consumed == 6
        assert len(called) == 2
    finally:
        os.close(reader)


def test_a_named_pipe_is_read_as_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Source.of(str(tmp_path / "pipe")) == Source(str(tmp_path / "pipe"), None, True)


def test_errors_of_files_name_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: No such file or directory"):
        Source.of(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="Is a directory"):
        Source.of(str(tmp_path))
    with pytest.raises(InputError, match="missing: No such file or directory"):
        [*Part(str(tmp_path / "missing")).blocks(b"\n")]


def test_a_zst_file_without_zstandard_says_what_to_install_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "f.zst").write_bytes(zstandard.compress(b"a\n"))
    (tmp_path / "g").write_bytes(b"b\n")
    script = "import sys; sys.modules['zstandard'] = None; from rack.cli import main; sys.exit(main(sys.argv[1:]))"
    args = [sys.executable, "-c", script, "dedup", "-q", "s", "f.zst", "g"]
    environment = {**os.environ, "PYTHONPATH": str(Path(rack.__file__).parent.parent)}
    done = subprocess.run(args, cwd=tmp_path, env=environment, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, b"b\n")
    error = b'rack dedup: f.zst: reading it needs zstandard, which is not installed: pip install "rack[zst]"\n'
    assert done.stderr == error
