"""Keys and values as a command line has them: text, JSON or a Python literal, read and written."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from math import inf, nan
from typing import Any

import click

from rack.cli import jsonl
from rack.codec import digest, tagged
from rack.codec.failure import type_name
from rack.codec.keys import CANONICAL
from rack.codec.plain import SCALARS
from rack.codec.presets import dump_str
from rack.codec.serdes import PRESETS

TYPES = ("literal", "json", "text")

#: What reads a word; ValueError says why it is none.
Read = Callable[[str], Any]
#: What turns stored bytes into a part of a line.
Write = Callable[[bytes], bytes]

_AS_STORED = {"str": "text", "bytes": "text", "json": "json"}


def type_of(serdes: str) -> str:
    """Return the type in which keys or values of a serdes are written and read if the user does not say."""
    return _AS_STORED.get(serdes, "literal")


def key_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--key", "key_type", type=click.Choice(TYPES), help=text)


def value_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--value", "value_type", type=click.Choice(TYPES), help=text)


#: What the help of a command says about its types.
KEY_HELP = "What KEY is written as (default: text for serdes str and bytes, else literal)."
VALUE_HELP = "What VALUE is written as (default: text for serdes str and bytes, json for json, else literal)."


# Reading


def reader(serdes: str, type: str | None, option: str = "--value") -> Read:
    """Return what reads values for a serdes. ``option`` is what chooses the type, for error messages."""
    type = type or type_of(serdes)
    if type == "text":
        return os.fsencode if serdes == "bytes" else str
    if type == "literal":
        return lambda text: _literal(text, option)
    return _parsed(PRESETS["json"].loads if serdes == "json" else tagged.loads)


def written_as(kind: str, key_serdes: str, serdes: str) -> str:
    """Return the serdes as whose keys a command line has those of a store. Of digests it has the keys themselves."""
    if not digest.is_named(key_serdes):
        return key_serdes
    return serdes if kind == "set" else CANONICAL.name


def key_reader(key_serdes: str, type: str | None) -> Read:
    """Return what reads keys for a serdes of keys."""
    read = _parsed(jsonl.key_of) if type == "json" else reader(key_serdes, type, "--key")

    def read_key(text: str) -> Any:
        key = read(text)
        try:
            hash(key)
        except TypeError as error:
            raise ValueError(f"{text!r} is no key: {error}") from error
        return key

    return read_key


def _parsed(loads: Callable[[Any], Any]) -> Read:
    def read(text: str) -> Any:
        try:
            return loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{text!r} is no JSON: {error}") from error

    return read


def _literal(text: str, option: str) -> Any:
    try:
        return ast.literal_eval(_Beyond().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"{text!r} is no Python literal, such as 5, 'text' or ('ann', 5); {option} text takes it as it is"
        ) from error


_NAMES: dict[str, Any] = {"inf": inf, "nan": nan, "infj": complex(0, inf), "nanj": complex(0, nan), "Ellipsis": ...}


class _Beyond(ast.NodeTransformer):
    """Turns what repr() writes and literal_eval() does not read, or not so, into constants.

    These are frozenset, inf, nan, Ellipsis, and complex numbers with a zero in them, of which a sum loses the sign.
    """

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "frozenset" and len(node.args) < 2 and not node.keywords:
            return ast.Constant(frozenset(*map(ast.literal_eval, node.args)))  # type: ignore[arg-type]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_NAMES[node.id]) if node.id in _NAMES else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.BinOp(left=part, op=ast.Add() | ast.Sub(), right=ast.Constant(complex() as imaginary)):
                is_negative = isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub)
                real = float(ast.literal_eval(part.operand if isinstance(part, ast.UnaryOp) else part))
                sign = -1 if isinstance(node.op, ast.Sub) else 1
                return ast.Constant(complex(-real if is_negative else real, sign * imaginary.imag))
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(complex() as imaginary)) if not imaginary.real:
                return ast.Constant(complex(0, -imaginary.imag))
        return node


# Writing


def key_writer(key_serdes: str, load: Callable[[bytes], Any], type: str | None = None) -> Write:
    """Return what writes stored keys, which ``load`` loads; digests in hex."""
    if digest.is_named(key_serdes) and type != "json":
        return lambda data: data.hex().encode()
    return _writer(key_serdes, load, type, jsonl.key_item)


def value_writer(serdes: str, load: Callable[[bytes], Any], type: str | None = None) -> Write:
    """Return what writes stored values, which ``load`` loads."""
    return _writer(serdes, load, type, jsonl.value_item)


def _writer(
    serdes: str, load: Callable[[bytes], Any], type: str | None, item_of: Callable[[str], jsonl.ToItem]
) -> Write:
    type = type or type_of(serdes)
    if _AS_STORED.get(serdes) == type:
        return bytes
    if type == "literal":
        return lambda data: repr(load(data)).encode(errors="backslashreplace")
    if type == "json":
        item = item_of(serdes)
        return lambda data: jsonl.line(item(data))
    return lambda data: _text(load(data))


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return dump_str(value)
    if isinstance(value, bytes):
        return value
    if type(value) in SCALARS:
        return repr(value).encode()
    told = type_name(type(value))
    raise ValueError(
        f"{told} has no text, as str, bytes and numbers have: --key and --value say how it is written, json or literal"
    )
