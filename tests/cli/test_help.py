"""The ``rack`` command itself: its help, version, progress bar, and what it says without its extras."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rack

pytest.importorskip("click")
pytest.importorskip("rich")

import click

from rack.cli.app import GROUPS, app
from tests.support.commands import ENVIRONMENT, RACK


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "rack", app
    for name, command in app.commands.items():
        yield f"rack {name}", command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()])
def test_every_command_and_option_has_a_help_text(name: str, command: click.Command) -> None:
    assert command.help
    done = subprocess.run([*RACK, *name.split()[1:], "--help"], env=ENVIRONMENT, capture_output=True, check=True)
    assert done.stderr == b""
    shown = " ".join(done.stdout.decode().split())
    with click.Context(command, info_name=name) as context:
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option):
                assert parameter.help
                assert f"{max(parameter.opts, key=len)} " in shown
                assert " ".join(parameter.help.split()) in shown
            else:
                assert isinstance(parameter, click.Argument)
                assert parameter.human_readable_name.strip("[].").upper() in command.help, "say what it is"


@pytest.mark.parametrize("name", app.commands)
def test_every_command_has_an_example_that_names_it(name: str) -> None:
    text = app.commands[name].help
    assert text is not None
    assert re.search(rf"Examples?: .*rack {name} ", text, re.DOTALL)


def test_the_help_has_every_command_with_all_of_its_first_sentence() -> None:
    shown = subprocess.run([*RACK, "--help"], env={**ENVIRONMENT, "COLUMNS": "80"}, capture_output=True, check=True)
    text = " ".join(shown.stdout.decode().split())
    for group, found in GROUPS.items():
        assert f"{group}: " in text
        for name, (_, sentence) in found.items():
            assert f" {name} {sentence}" in text
    assert "..." not in text.replace("B...", "").replace("STORE...", "").replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("rack comp", {"plain,compact", "plain,compare"}),
        ("rack verify --js", {"plain,--json"}),
        ("rack verify d/s", {"plain,d/seen", "plain,d/seen-2024"}),
        ("rack mv d/seen- ", {"dir,"}),
        ("rack mv x", {"dir,x"}),
    ],
)
def test_a_shell_completes_commands_options_and_stores(words: str, found: set[str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("seen", "seen-2024", "titles"):
        (tmp_path / "d" / f"{name}.rack").touch()
    typed = words.split(" ")
    asked = {"_RACK_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    command = [sys.executable, "-c", "import sys; from rack.cli import main; sys.exit(main())"]
    done = subprocess.run(command, env={**ENVIRONMENT, **asked}, cwd=tmp_path, capture_output=True, check=True)
    assert set(done.stdout.decode().split("\n")[:-1]) == found


def test_version() -> None:
    done = subprocess.run([*RACK, "--version"], env=ENVIRONMENT, capture_output=True, check=True)
    assert done.stdout.decode() == f"rack {rack.__version__}\n"


def test_an_unknown_command_is_exit_code_2() -> None:
    done = subprocess.run([*RACK, "nonsense"], env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"nonsense" in done.stderr


@pytest.mark.parametrize("module", ["click", "rich"])
def test_without_its_extras_it_says_in_one_line_what_to_install(module: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; from rack.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    error = f'rack: the command needs {module}, which is not installed: pip install "rack[cli]"\n'
    assert done.stderr.decode() == error


def on_terminal(*args: str, expect: bytes | None = None, stdout_too: bool = False) -> tuple[bytes, bytes]:
    """Run a command with a terminal as its standard error; return what went to the terminal, and to the output.

    It is given five lines, and the last two when ``expect`` has been seen on the terminal.
    """
    ours, theirs = pty.openpty()
    shown = b""

    def listen(until: bytes | None) -> None:
        nonlocal shown
        deadline = time.monotonic() + 20
        while until is None or until not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 1 << 16)
                except OSError:  # how Linux says that the other side is closed
                    data = b""
                if not data:
                    assert until is None, shown
                    return
                shown += data

    with subprocess.Popen(
        [*RACK, *args],
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.PIPE,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
        bufsize=0,
    ) as process:
        os.close(theirs)
        try:
            assert process.stdin
            process.stdin.write(b"line 0\nline 1\nline 2\n")
            if expect is not None:
                listen(expect)
            process.stdin.write(b"line 3\nline 4\n")
            process.stdin.close()
            listen(None)
            output = process.stdout.read() if process.stdout else b""
        finally:
            process.kill()
            os.close(ours)
    return shown, output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_bar_is_shown_on_a_terminal(tmp_path: Path, workers: str) -> None:
    shown, output = on_terminal("dedup", str(tmp_path / "s"), "--workers", workers, expect=b"3 lines")
    assert re.search(rb"/\? bytes.* 3 lines, [\d,]+/s, 3 new", shown)  # of bytes it may not be told yet
    assert sorted(output.splitlines()) == [b"line %d" % number for number in range(5)]
    last = shown.decode().rstrip().splitlines()[-1]
    assert "rack dedup: 5 lines read, 5 new, 0 seen before; 35 bytes in" in last
    assert shown.count(b"\x1b[?25h") == shown.count(b"\x1b[?25l"), "the cursor is hidden"


def test_no_bar_with_quiet_nor_among_the_lines_on_one_terminal(tmp_path: Path) -> None:
    shown, output = on_terminal("dedup", str(tmp_path / "s"), "--quiet")
    assert shown == b""
    assert len(output.splitlines()) == 5
    shown, _ = on_terminal("dedup", str(tmp_path / "t"), stdout_too=True)
    assert shown.splitlines()[:5] == [b"line %d" % number for number in range(5)]
    assert b"\x1b" not in shown


def test_no_bar_off_a_terminal_even_if_colour_is_forced(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "FORCE_COLOR": "1"}
    done = subprocess.run(
        [*RACK, "dedup", str(tmp_path / "s")], env=environment, input=b"a\n", capture_output=True, check=True
    )
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b"a\n"
