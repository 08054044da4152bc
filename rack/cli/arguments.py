"""Arguments that commands share."""

from __future__ import annotations

import os

import click


def store_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """A shell completes a store's name to its manifest's: take that for the store."""
    if value is None:  # an option that was not given
        return ""
    stem, suffix = os.path.splitext(value)
    return stem if suffix == ".rack" and os.path.isfile(value) else value


#: The STORE of a command.
store_argument = click.argument("store", callback=store_name)
