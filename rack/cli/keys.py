"""The keys that a command line names: one, or many on standard input."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from rack.cli.failure import Command, Failure, Verdict, tell
from rack.cli.inputs import InputError
from rack.cli.lines import write_lines
from rack.cli.output import check_open
from rack.cli.signals import guard
from rack.cli.sources import Source
from rack.cli.values import KEY_HELP, Read, key_option

_MARK = "\0"  # which no argument has

_CHUNK = 1024  # keys of standard input that are dealt with at a time


class _Numbers(click.Command):
    """A command whose arguments may be negative numbers, which are no options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {
            opt for each in self.params if isinstance(each, click.Option) and not each.is_flag for opt in each.opts
        }
        before = ["", *args]
        marked = [
            f"{_MARK}{arg}" if re.match(r"-\.?\d", arg) and arg != "-0" and last not in valued else arg
            for last, arg in zip(before, args, strict=False)
        ]
        rest = super().parse_args(ctx, marked)
        for name, value in ctx.params.items():
            if isinstance(value, str) and value.startswith(_MARK):  # a URL has to stay the object that it is
                ctx.params[name] = value.removeprefix(_MARK)
        return rest


class Change(_Numbers, Command):
    """A command that is given keys."""


class Question(_Numbers, Verdict):
    """A command that is given keys, and whose exit code tells whether it is yes for all of them."""


def key_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument KEY, and what says how keys are read."""
    for option in (
        click.option("-0", "--null", is_flag=True, help="Lines end with NUL, in the input and in the output."),
        key_option(KEY_HELP),
        click.argument("key", metavar="[KEY]", required=False),
    ):
        command = option(command)
    return command


def word_of(read: Read, text: str, argument: str) -> Any:
    """Return what an argument of the command line stands for.

    :raises click.BadParameter: it stands for nothing.
    """
    try:
        return read(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=argument) from error


class Keys:
    """The keys of a command: ``one``, or the lines of standard input."""

    def __init__(self, word: str | None, read: Read, null: bool) -> None:
        """A ``word`` that is missing, or "-", means standard input.

        :raises click.BadParameter: it is no key.
        """
        self.are_many = word in (None, "-")
        self._read = read
        self._end = b"\0" if null else b"\n"
        self.one = None if self.are_many else word_of(read, word or "", "KEY")

    def chunks(self) -> Iterator[tuple[list[bytes], list[Any]]]:
        """Yield the lines of standard input, and the keys that they are, some at a time.

        :raises Failure: standard input cannot be read, or a line is no key; those before it have been yielded.
        """
        number = 0  # of lines before
        try:
            source = Source.of("-")
            if os.isatty(0):
                tell("reading keys from the terminal; Ctrl-D ends them")
            for block, _ in source.blocks(self._end, lambda: None):
                lines = block.split(self._end)
                for at in range(0, len(lines), _CHUNK):
                    yield from self._parsed(lines[at : at + _CHUNK], number + at)
                number += len(lines)
        except InputError as error:
            raise Failure(str(error)) from error

    def _parsed(self, lines: list[bytes], before: int) -> Iterator[tuple[list[bytes], list[Any]]]:
        keys: list[Any] = []
        try:
            keys.extend(self._read(os.fsdecode(line)) for line in lines)
        except ValueError as error:
            yield lines[: len(keys)], keys
            raise Failure(f"line {before + len(keys) + 1:,}: {error}") from error
        yield lines, keys

    def ask(self, answers: Callable[[list[Any]], list[bool]]) -> bool:
        """Return whether the answer is yes for all keys; of many, write those for which it is.

        What ``answers`` has changed is written in any case.
        """
        if not self.are_many:
            return all(answers([self.one]))
        check_open()
        all_are = True
        for lines, keys in self.chunks():
            with guard.held():
                found = answers(keys)
                all_are &= all(found)
                write_lines((line for line, is_so in zip(lines, found, strict=True) if is_so), self._end)
        return all_are

    def write(self, values: Callable[[list[Any]], list[bytes | None]]) -> bool:
        """Write the value that each key has, of many behind the key and a tab; return whether all have one."""
        check_open()
        if not self.are_many:
            found = values([self.one])
            write_lines((value for value in found if value is not None), self._end)
            return None not in found
        all_have = True
        for lines, keys in self.chunks():
            with guard.held():
                found = values(keys)
                all_have &= None not in found
                pairs = zip(lines, found, strict=True)
                write_lines((b"%b\t%b" % (line, value) for line, value in pairs if value is not None), self._end)
        return all_have
