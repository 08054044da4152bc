"""The part of a container that makes others: what operations return, and copies."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Self

from rack.codec.keys import KeyCodec, resolve_codec
from rack.codec.serdes import Serdes
from rack.store import registry
from rack.store.manifest import Manifest, Request, absolute_path
from rack.store.opening import Mode
from rack.store.openstore import Hold
from rack.store.record import DEFAULT_DURABILITY
from rack.store.site import FILES
from rack.store.where import site_of

Name = str | os.PathLike[str] | None
Extra = tuple[dict[str, Any], dict[str, Any]]  # what subclasses have put into a container: attributes, slots


class Maker:
    """Base of the container, which see for the attributes."""

    name: str
    _path: str
    _arguments: dict[str, Any]
    _request: Request
    _mode: Mode
    _codec: KeyCodec
    _serdes: Serdes
    _hold: Hold | None
    _openings: list[None]
    _use_of_it: list[tuple[Hold, bool, int]]
    _finalizer: weakref.finalize[..., Any] | None
    _entered_by_maker: bool
    _kind: ClassVar[str]
    _manifest: Any
    _attach: Callable[..., None]
    _let_go: Callable[[], None]
    _bare: Callable[..., Self]
    _extra: Callable[[], Extra]
    _open_store: Callable[[], Any]
    _is_anonymous: Callable[[], bool]
    sync: Callable[[], None]

    def _derived(self, name: Name, fill: Callable[[Any], object], like: Any = None, **options: Any) -> Any:
        """Return a new, open container of the same shape as this one, filled by ``fill``."""
        arguments = {key: value for key, value in self._arguments.items() if key not in ("flag", "timeout")}
        if not self._is_anonymous():
            arguments["durability"] = self._open_store().durability  # which it may have adopted
        # What was adopted from the manifest are presets, so their names will do; and names can be pickled.
        if arguments["serdes"] is None:
            arguments["serdes"] = self._serdes.name
        # Another serdes brings its own for keys, unless the keys had one that did not come with the values'.
        # (No others can be made of digests.)
        came = self._kind == "set" or self._codec.name == resolve_codec(None, self._serdes).name
        went = came and self._codec.digest is None
        if (new := "serdes" in options and went) or arguments["key_serdes"] is None:
            arguments["key_serdes"] = None if new else self._codec.preset
        site = FILES if name is None else site_of(absolute_path(name))
        arguments |= {**site.shape(self._manifest), **options}
        if like is not None:
            return like._produce(name, self._path, arguments, fill)
        return self._produce(name, self._path, arguments, fill, self._extra())

    @classmethod
    def _produce(
        cls,
        name: Name,
        beside: str,
        arguments: dict[str, Any],
        fill: Callable[[Any], object],
        extra: Extra = ({}, {}),
    ) -> Self:
        """Make a container and fill it; without a name it is anonymous and lies beside another.

        One with a name is anonymous until it is full, so that nobody ever finds half of it.
        """
        target = None if name is None else absolute_path(name)
        home = site_of(target or beside)
        if target is not None:
            home.check_absent(target)
        made = cls._bare(home.anonymous(target, beside), extra, flag="n", **arguments)
        # Nobody misses it after a power failure until it has its name.
        made._mode = Mode("n", "process", None, made._mode.memory)
        try:
            made._attach(registry.acquire(made._path, made._request, made._mode), anonymous=True)
        except BaseException:
            site_of(made._path).discard(Manifest.new(made._request), made._path)
            raise
        made._openings.append(None)
        made._entered_by_maker = True
        try:
            fill(made)
            if target is not None:
                made._publish(target)
        except BaseException:
            made._let_go()  # which deletes it
            raise
        return made

    def _publish(self, target: str) -> None:
        """Give an anonymous container a name."""
        assert self._hold is not None
        assert self._finalizer is not None
        self.sync()
        registry.release(self._hold)
        durability = self._arguments["durability"] or DEFAULT_DURABILITY
        registry.publish(self._hold.opened.manifest, self._hold.opened.path, target, durability)
        self._use_of_it.clear()
        self._finalizer.detach()
        self.name = self._path = target
        self._mode = Mode("w", self._arguments["durability"], None, self._mode.memory)
        self._arguments["flag"] = "w"
        self._attach(registry.acquire(target, self._request, self._mode))
