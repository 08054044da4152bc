"""The ``rack`` command: one module a command, and few words at the top so that it starts without its extras.

Exit codes, for every command: 0 done; 1 an error, told in one line on standard error; 2 wrong usage. A command that is
stopped by Ctrl-C, by another signal or by a closed pipe ends *by that signal*, as ``cat`` and ``sort`` do (the shell
shows 130, 143, 141): only so a shell loop around it stops as well.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes a while to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the ``rack`` command with ``args`` (default: those of the process) and return its exit code."""
    # Until the command has its own handler: no traceback from an import.
    if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _fill_standard_descriptors()
    from importlib.util import find_spec

    for needed in ("click", "rich"):  # which is imported where it is used
        if find_spec(needed) is None:
            message = f'rack: the command needs {needed}, which is not installed: pip install "rack[cli]"'
            print(message, file=sys.stderr)
            return 1
    from rack.cli.app import run

    return run(args)


def _fill_standard_descriptors() -> None:
    """Put the null device where descriptor 0, 1 or 2 is closed: else a shard's file would become standard output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stderr is None:  # print() would take standard output for it
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
