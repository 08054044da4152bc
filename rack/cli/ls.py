"""``rack ls``: the stores in a directory."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import click

from rack.care import served
from rack.care.listing import stores
from rack.care.words import size
from rack.cli.failure import Command, remember
from rack.cli.hidden import named
from rack.cli.output import say
from rack.errors import RackError, told
from rack.shard import served_by
from rack.shard.address import Address
from rack.store.manifest import Manifest, absolute_path
from rack.system.disk import bytes_on_disk


class _Place(click.Path):
    """A directory, or the URL of servers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if served_by(value) is None:
            return super().convert(value, param, ctx)
        try:
            return named(value, nameless=True)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(cls=Command)
@click.argument("directory", metavar="[DIR]", type=_Place(exists=True, file_okay=False), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def ls(directory: str, as_json: bool) -> None:
    """List the stores in the directory DIR.

    By default in this one: what they are, their size, and when they were written to. The JSON objects have "name",
    "kind", "engine", "shards", "serdes", "key_serdes", "bytes" (of disk, all files) and "modified" (in UTC); of a store
    whose manifest is damaged "name" and "problem".

    DIR can be the URL of servers, without "name=", or with what the names begin with. "bytes" is memory of the servers
    then, "modified" is null. What killed operations have left is listed too, and has a "problem".

    Example: rack ls data
    """
    if isinstance(directory, Address):
        found = list(map(_on_server, served.listed(directory)))
    else:
        remember(directory)
        found = [_described(name) for name in stores(directory)]
    if as_json:
        for store in found:
            say(json.dumps(store))
        return
    rows = [_row(store) for store in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _described(name: str) -> dict[str, Any]:
    path = absolute_path(name)
    try:
        manifest = Manifest.read(path)
    except RackError as error:
        return {"name": name, "problem": told(error)}
    if manifest is None:
        return {"name": name, "problem": "it was removed just now"}
    files = manifest.files(path)
    return {
        "name": name,
        "kind": manifest.kind,
        "engine": manifest.engine,
        "shards": manifest.shards,
        "serdes": manifest.serdes,
        "key_serdes": manifest.key_serdes,
        "bytes": sum(map(bytes_on_disk, files)),
        "modified": _moment(max(os.path.getmtime(file) for file in files if os.path.exists(file))),
    }


def _on_server(store: served.Listed) -> dict[str, Any]:
    found: dict[str, Any] = {"name": store.address}
    if store.mark is not None:
        fields = store.mark.manifest._asdict()
        found |= {name: fields[name] for name in ("kind", "engine", "shards", "serdes", "key_serdes")}
        found |= {"bytes": store.size, "modified": None}
    return found if store.problem is None else found | {"problem": store.problem}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _row(store: dict[str, Any]) -> tuple[str, ...]:
    if "problem" in store:
        return store["name"], "?", "", "", "", "", store["problem"]
    shards = "1 shard" if store["shards"] == 1 else f"{store['shards']} shards"
    moment = store["modified"]
    modified = datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M") if moment else ""
    return store["name"], store["kind"], store["engine"], shards, store["serdes"], size(store["bytes"]), modified
