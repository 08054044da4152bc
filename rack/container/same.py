"""Whether two containers turn objects into the same bytes."""

from __future__ import annotations

from typing import Any

from rack.errors import DigestKeysError


def same_codec(mine: Any, other: Any) -> bool:
    """Whether equal keys have equal bytes in both."""
    one, two = mine._codec, other._codec
    if one is two:
        return True
    # A serializer of the user's own: the same if both containers were given the same.
    given = _given_for_keys(mine)
    return bool(one.name == two.name and given is not None and given == _given_for_keys(other))


def check_keys(mine: Any, other: Any) -> None:
    """:raises DigestKeysError: ``other`` has digests of its keys, and ``mine`` needs something else."""
    if other._codec.digest is not None and other._codec is not mine._codec:
        raise DigestKeysError(
            f"{other.name} has only digests of its keys (key serdes {other._codec.name}), of which no keys of the key"
            f" serdes {mine._codec.name} can be made"
        )


def same_serdes(mine: Any, other: Any) -> bool:
    """Whether the values of one can be read in the other."""
    if mine._serdes is other._serdes:
        return True
    given = mine._arguments["serdes"]
    return bool(given is not None and given == other._arguments["serdes"])


def _given_for_keys(container: Any) -> Any:
    """Return the argument that the serializer of the keys was made of; None: it is a preset."""
    given = container._arguments["key_serdes"]
    return container._arguments["serdes"] if given is None else given
