"""The name of a store on a server: a URL, of which nothing that is secret is ever shown."""

from __future__ import annotations

from typing import Any


class Address(str):
    """The URL without its password. ``parts`` has all of it, as the engine needs it; ``layout``: None if not given.

    It is a str, so whatever tells of a store by its name, in an error or a log, tells no secret.
    """

    parts: Any
    layout: str | None

    def __new__(cls, shown: str, parts: Any, layout: str | None = None) -> Address:
        made = super().__new__(cls, shown)
        made.parts, made.layout = parts, layout
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Address, (str(self), self.parts, self.layout)
