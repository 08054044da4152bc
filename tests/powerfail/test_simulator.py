"""The simulator of power failures itself: what it leaves of files is all that a disk may hold, and nothing else."""

from __future__ import annotations

import random
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.powerfail import disk
from tests.powerfail.recorder import PAGE, Recorder, build_shim

Leave = Callable[..., set[tuple[tuple[str, str], ...]]]

_PROGRAM = """
import mmap, os, sys, time
place, signs = sys.argv[1:]
os.chdir(place)

def path(name):
    return place + "/" + name

def write(name, text, sync=True):
    "Write pages that are full of one letter each."
    with open(path(name), "r+b" if os.path.exists(name) else "xb") as file:
        file.write(b"".join(letter.encode() * 4096 for letter in text))
        file.flush()
        if sync:
            os.fsync(file.fileno())

def sync_names():
    fd = os.open(place, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)

def moment():
    "Have the test stop this program here."
    number = len(os.listdir(signs))
    open(signs + f"/{number}", "w").close()
    while os.path.exists(signs + f"/{number}"):
        time.sleep(0.001)
    open(signs + f"/{number}", "w").close()

"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def leave(shim: Path, tmp_path: Path) -> Leave:
    """Run a program; return all that a power failure at its last moment leaves: pages by their first letters."""

    def run(program: str, tries: int = 400) -> set[tuple[tuple[str, str], ...]]:
        signs = tmp_path / "signs"
        signs.mkdir()
        (tmp_path / "program.py").write_text(_PROGRAM + textwrap.dedent(program) + "\nmoment()\n")
        with Recorder(shim, tmp_path / "run", slowness=0) as recorder:
            recorder.start(tmp_path / "program.py", recorder.place.resolve(), signs)
            while recorder.is_running():
                for sign in sorted(signs.iterdir())[len(recorder.moments) :]:
                    recorder.stop()
                    sign.unlink()
                    while recorder.is_running() and not sign.exists():
                        time.sleep(0.001)
                time.sleep(0.001)
            recorder.wait(10)
        history = disk.History.of(recorder)
        return {
            tuple(
                (name, data[::PAGE].replace(b"\0", b"-").decode())
                for name, data in sorted(disk.leave(history, recorder.moments, random.Random(seed)).items())
            )
            for seed in range(tries)
        }

    return run


def _one(*texts: str) -> set[tuple[tuple[str, str], ...]]:
    return {(("f", text),) for text in texts}


def test_what_was_synced_is_there(leave: Leave) -> None:
    assert leave("write('f', 'ab'); sync_names()") == _one("ab")


def test_pages_written_since_are_there_or_not_each_by_itself(leave: Leave) -> None:
    assert leave("write('f', 'ab'); sync_names(); write('f', 'AB', False)") == _one("ab", "Ab", "aB", "AB")


def test_a_page_may_be_as_it_was_at_any_moment_since_the_sync_and_none_before(leave: Leave) -> None:
    left = leave(
        """
        write('f', 'x', False); moment()
        write('f', 'a'); sync_names(); moment()
        write('f', 'b', False); moment()
        write('f', 'c', False)
        """
    )
    assert left == _one("a", "b", "c")


def test_a_file_that_was_not_synced_has_any_length_and_zeros(leave: Leave) -> None:
    left = leave("open(path('g'), 'xb').close(); sync_names(); write('f', 'ab', False)")
    files = {dict(content).get("f") for content in left}
    assert files == {None, "", "a", "-", "ab", "-b", "a-", "--"}


def test_what_was_appended_since_the_sync_may_be_there_in_part(leave: Leave) -> None:
    left = leave("write('f', 'a'); sync_names(); write('f', 'abc', False)")
    assert left == _one("a", "ab", "a-", "abc", "ab-", "a-c", "a--")


def test_a_rename_is_there_or_not_until_the_directory_is_synced(leave: Leave) -> None:
    program = "write('f', 'a'); sync_names(); write('new', 'b'); os.rename(path('new'), path('f'))"
    assert leave(program) == {(("f", "a"),), (("f", "a"), ("new", "b")), (("f", "b"),)}


def test_a_rename_is_there_once_the_directory_is_synced(leave: Leave) -> None:
    program = "write('f', 'a'); sync_names(); write('new', 'b'); os.rename(path('new'), path('f')); sync_names()"
    assert leave(program) == _one("b")


def test_a_name_is_not_there_for_sure_because_its_file_was_synced(leave: Leave) -> None:
    assert leave("write('f', 'a')") == {(), (("f", "a"),)}


def test_names_are_kept_in_order(leave: Leave) -> None:
    left = leave("write('f', 'a'); write('g', 'a'); sync_names(); os.unlink(path('f')); os.unlink(path('g'))")
    assert left == {(("f", "a"), ("g", "a")), (("g", "a"),), ()}


def test_a_cut_is_there_or_not_and_what_was_written_behind_it_only_if_it_is(leave: Leave) -> None:
    left = leave(
        """
        write('f', 'abc'); sync_names()
        os.truncate(path('f'), 4096); moment()
        write('f', 'aBC', False)
        """
    )
    assert left == _one("abc", "a", "aB", "a-", "aBC", "a-C", "aB-", "a--")


def test_a_sync_of_a_cut_file_takes_over_the_cut(leave: Leave) -> None:
    left = leave(
        """
        write('f', 'abc'); sync_names()
        with open(path('f'), 'r+b') as file:
            file.truncate(4096)
            os.fdatasync(file.fileno())
        """
    )
    assert left == _one("a")


def test_a_sync_of_mapped_pages_is_of_these_pages(leave: Leave) -> None:
    left = leave(
        """
        write('f', 'abc'); sync_names()
        with open(path('f'), 'r+b') as file, mmap.mmap(file.fileno(), 0) as map:
            for page, letter in enumerate(b'ABC'):
                map[page * 4096:page * 4096 + 4096] = bytes([letter]) * 4096
            map.flush(4096, 4096)
        """
    )
    assert left == _one("aBc", "ABc", "aBC", "ABC")


def test_what_a_forked_process_and_one_that_it_runs_sync_is_there(leave: Leave) -> None:
    left = leave(
        """
        import subprocess
        if not os.fork():
            write('f', 'a')
            os._exit(0)
        os.wait()
        code = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.pwrite(fd, b'b' * 4096, 4096); os.fsync(fd)"
        subprocess.run([sys.executable, '-c', code, path('f')], check=True)
        sync_names()
        """
    )
    assert left == _one("ab")


def test_files_that_are_there_before_are_on_the_disk(shim: Path, tmp_path: Path) -> None:
    place = tmp_path / "run" / "place"
    place.mkdir(parents=True)
    (place / "f").write_bytes(b"a" * 5000)
    with Recorder(shim, tmp_path / "run") as recorder:
        recorder.start("-c", f"open({str(place / 'f')!r}, 'ab').write(b'b' * 5000)")
        recorder.wait(20)
        recorder.start("-c", "import time; time.sleep(60)")
        recorder.stop()
    history = disk.History.of(recorder)
    left = {disk.leave(history, recorder.moments, random.Random(seed))["f"] for seed in range(200)}
    assert all(data.startswith(b"a" * 5000) and not data[5000:].strip(b"b\0") for data in left)
    assert {5000, 8192, 10000} <= {len(data) for data in left}
