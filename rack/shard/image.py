"""The file of a new, empty shard. The engine makes the first of its kind; those that follow are copies of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class _Image(NamedTuple):
    data: bytes
    identity: bytes  # of the shard whose file it was


_images: dict[object, _Image] = {}


def write_new(path: str, kind: object, identity: bytes, make: Callable[[], None]) -> None:
    """Write the file of a new shard, which is there and empty; it is not on the disk then.

    The files of shards of a kind differ in their identity alone, if that is as long.

    :param kind: which engine and layout it is of.
    :param identity: what tells the shard from others, as it is in its file.
    :param make: has the engine make the file.
    """
    key = kind, len(identity)
    image = _images.get(key)
    if image is not None:
        with open(path, "r+b") as file:
            file.write(image.data.replace(image.identity, identity))
        return
    make()
    with open(path, "rb") as file:
        data = file.read()
    if data.count(identity) == 1:
        _images[key] = _Image(data, identity)
