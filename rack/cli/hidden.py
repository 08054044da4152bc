"""URLs on a command line, of which no message is to tell the password."""

from __future__ import annotations

import re

from rack.shard import address_of, served_by
from rack.shard.address import Address

#: Those of the command that runs, by what is shown of them: all that the parser of the command line hands on.
_known: dict[str, Address] = {}
_LOGIN = re.compile(r"(?<=://)[^/?#]*@")


def hidden(word: str) -> str:
    """Return a word of the command line; of a URL of a store, what shows no secret, and is the store all the same."""
    if served_by(word) is None:
        return word
    try:
        address = address_of(word, nameless=True)
        _known[str(address)] = address
        return address
    except ValueError:
        return _LOGIN.sub("...@", word)  # which is refused for the same reason


def named(word: str, nameless: bool = False) -> Address:
    """Return the store that a word of the command line names, as it was before :func:`hidden`.

    :raises ValueError: it names none, and not ``nameless``: then it may name the servers alone.
    """
    known = _known.get(word)
    return known if known is not None and (nameless or known.parts.store) else address_of(str(word), nameless)
