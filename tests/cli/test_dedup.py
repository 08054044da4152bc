"""``rack dedup``: what it promises about lines, as its users run it: processes, files and pipes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentSet
from tests.cli.test_ends import ENVIRONMENT
from tests.support.commands import RACK
from tests.support.processes import end_sound as end_sound

pytest.importorskip("click")
pytest.importorskip("rich")


def start(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*RACK, *map(str, args)], env=ENVIRONMENT, **options)


def run(*args: object, expect: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*RACK, *map(str, args)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60, check=False, **options)
    assert done.returncode == expect, (done.returncode, done.stderr.decode())
    return done


def dedup(*args: object, data: bytes | None = None, expect: int = 0) -> bytes:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return bytes(run("dedup", *args, expect=expect, **options).stdout)


def elements(store: Path) -> set[bytes]:
    with PersistentSet[bytes](store, serdes="bytes", flag="r") as seen:
        assert seen.check() == len(seen)
        return {*seen}


def random_lines(rng: random.Random, count: int, distinct: int) -> list[bytes]:
    """Lines of many lengths (also 0, and longer than an LMDB key), with repetitions."""

    def line(number: int) -> bytes:
        return b"%d " % number * (number % 40 if number % 500 else 300)

    return [line(rng.randrange(distinct)) for _ in range(count)]


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


# Which lines, and in which order


def test_each_line_is_written_once_in_input_order_over_files_and_runs(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    first, second, third = (random_lines(rng, 3000, 2000) for _ in range(3))
    for name, lines in zip("abc", (first, second, third), strict=True):
        (tmp_path / name).write_bytes(joined(lines))
    assert dedup(tmp_path / "s", tmp_path / "a", tmp_path / "b") == joined([*dict.fromkeys(first + second)])
    assert dedup(tmp_path / "s", tmp_path / "c", tmp_path / "a") == joined(
        [line for line in dict.fromkeys(third) if line not in {*first, *second}]
    )
    assert elements(tmp_path / "s") == {*first, *second, *third}


def test_standard_input_is_read_without_a_file_and_for_a_dash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"in file\n")
    assert dedup(tmp_path / "s", data=b"a\nb\n") == b"a\nb\n"
    assert dedup(tmp_path / "s", "-", tmp_path / "f", data=b"b\nc\n") == b"c\nin file\n"


def test_an_empty_line_is_a_line_and_a_last_line_without_newline_is_the_same_line(tmp_path: Path) -> None:
    assert dedup(tmp_path / "s", data=b"") == b""
    assert dedup(tmp_path / "s", data=b"a") == b"a\n"
    assert dedup(tmp_path / "s", data=b"a\n\n\nb") == b"\nb\n"
    assert dedup(tmp_path / "s", data=b"\n") == b""
    assert dedup(tmp_path / "t", data=b"\n") == b"\n"


def test_lines_are_bytes(tmp_path: Path) -> None:
    data = b"\xff\xfe\n\0\n\r\n\n\xe2\x80\xa8\x0b\x0c\x1c\x85\n" + b"\xff" * 511 + b"\n" + b"\xff" * 512 + b"\n"
    assert dedup(tmp_path / "s", data=data) == data


def test_null_separates_lines_on_both_sides(tmp_path: Path) -> None:
    assert dedup("-0", tmp_path / "s", data=b"a\nb\0c\0a\nb\0\0d") == b"a\nb\0c\0\0d\0"
    assert dedup("--null", tmp_path / "s", data=b"c\0e\0") == b"e\0"
    assert elements(tmp_path / "s") == {b"a\nb", b"c", b"", b"d", b"e"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_line_may_be_long(tmp_path: Path, workers: int) -> None:
    line = random.Random(1).randbytes(24 << 20).replace(b"\n", b"")
    (tmp_path / "f").write_bytes(b"before\n" + line + b"\nafter\n" + line)
    out = dedup(tmp_path / "s", tmp_path / "f", "--workers", workers)
    assert sorted(out.split(b"\n")) == sorted([b"before", line, b"after", b""])


def test_the_store_is_a_set_of_bytes_in_python(tmp_path: Path) -> None:
    with PersistentSet[bytes](tmp_path / "s", serdes="bytes", shards=2) as seen:
        seen.add(b"a")
    assert dedup(tmp_path / "s", data=b"a\nb\n") == b"b\n"
    with PersistentSet[bytes](tmp_path / "s") as seen:  # which the store knows
        assert sorted(seen) == [b"a", b"b"]


# Many processes


@pytest.mark.parametrize(("processes", "workers"), [(2, 1), (6, 1), (2, 3)])
def test_dedup_processes_at_once_write_each_line_exactly_once(
    tmp_path: Path, seed: int, processes: int, workers: int
) -> None:
    rng = random.Random(seed)
    inputs = [[b"line %d" % rng.randrange(40_000) for _ in range(40_000)] for _ in range(processes)]
    running = []
    for number, block in enumerate(inputs):
        (tmp_path / f"in{number}").write_bytes(joined(block))
        with open(tmp_path / f"out{number}", "wb") as out:
            args = ("dedup", tmp_path / "s", tmp_path / f"in{number}", "--workers", workers)
            running.append(start(*args, stdout=out, stderr=subprocess.PIPE))
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    written = [(tmp_path / f"out{number}").read_bytes().splitlines() for number in range(processes)]
    assert sum(map(bool, written)) > 1, "they did not run at once: the test shows nothing"
    assert sorted(line for lines in written for line in lines) == sorted({line for block in inputs for line in block})


def test_processes_that_share_one_output_pipe_never_cut_a_line(tmp_path: Path) -> None:
    names = []
    for number in range(4):
        names.append(tmp_path / f"in{number}")
        names[-1].write_bytes(joined([b"%d-%d " % (number, i) * 60 + b"." for i in range(3000)]))
    read, write = os.pipe()
    running = [start("dedup", tmp_path / "s", name, "--quiet", stdout=write) for name in names[:2]]
    running.append(start("dedup", tmp_path / "s", *names[2:], "--quiet", "--workers", "2", stdout=write))
    os.close(write)
    with open(read, "rb") as pipe:
        got = pipe.read()
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert sorted(got.splitlines()) == sorted(b"".join(name.read_bytes() for name in names).splitlines())


def test_workers_share_one_large_file(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    # Some 20 MB, so that it is cut into parts; a few lines are longer than a part's first read.
    lines = [b"%d " % rng.randrange(20_000) * 60 for _ in range(60_000)]
    lines += [b"x%d" % number * 100_000 for number in range(5)] + [b""]
    rng.shuffle(lines)
    (tmp_path / "f").write_bytes(b"\n".join(lines))
    counts = dedup(tmp_path / "counts", tmp_path / "f", "--workers", 3, "--count")
    distinct = len({*lines})
    read = len(lines) - (lines[-1] == b"")
    assert counts == b"read\t%d\nnew\t%d\nseen\t%d\n" % (read, distinct, read - distinct)
    out = dedup(tmp_path / "s", tmp_path / "f", "--workers", 3)
    assert sorted(out.split(b"\n")[:-1]) == sorted({*lines})


@pytest.mark.parametrize("compressed", [False, True])
def test_workers_share_what_only_one_process_can_read(tmp_path: Path, seed: int, compressed: bool) -> None:
    import gzip

    lines = random_lines(random.Random(seed), 50_000, 20_000)
    if compressed:
        (tmp_path / "f.gz").write_bytes(gzip.compress(joined(lines), 1))
        out = dedup(tmp_path / "s", tmp_path / "f.gz", "--workers", 3)
    else:
        out = dedup(tmp_path / "s", "--workers", 3, data=joined(lines))
    assert sorted(out.split(b"\n")[:-1]) == sorted({*lines})


def test_workers_read_many_files_of_all_kinds(tmp_path: Path) -> None:
    import gzip

    expected = set()
    for number in range(12):
        lines = [b"%d" % (number * 50 + i) for i in range(100)]
        expected.update(lines)
        if number % 2:
            (tmp_path / f"{number}").write_bytes(joined(lines))
        else:
            (tmp_path / f"{number}.gz").write_bytes(gzip.compress(joined(lines)))
    names = [path for path in tmp_path.iterdir() if path.is_file()]
    out = dedup(tmp_path / "s", *names, "-", "--workers", 2, data=b"1\nnew\n")
    assert sorted(out.split()) == sorted(expected | {b"new"})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_line_that_comes_slowly_goes_out_as_it_comes(tmp_path: Path, workers: int) -> None:
    with start(
        "dedup", tmp_path / "s", "--workers", workers, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line + b"one\n")
            began = time.monotonic()
            assert process.stdout.read(4) == line
            assert time.monotonic() < began + 5
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


# Memory


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, workers: int) -> None:
    script = (
        "import resource, subprocess, sys\n"
        "code = subprocess.call(sys.argv[1:])\n"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    block = joined([b"%d " % number * 200 for number in range(1000)])
    args = [*RACK, "dedup", str(tmp_path / "s"), "--count", "-q", "--workers", str(workers)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *args], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        repeats = (200 << 20) // len(block)
        for _ in range(repeats):
            process.stdin.write(block)
        process.stdin.close()
        counts, code, peak = process.stdout.read().rsplit(None, 2)
    assert counts == b"read\t%d\nnew\t1000\nseen\t%d" % (repeats * 1000, repeats * 1000 - 1000)
    assert int(code) == 0
    assert int(peak) * (1 if sys.platform == "darwin" else 1024) < 150 << 20
