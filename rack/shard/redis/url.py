"""The URL that names a store: ``redis://host:port/0?name=crawl:seen``, and its kin."""

from __future__ import annotations

import os
from typing import NamedTuple, NoReturn

from rack.shard.address import Address
from rack.system.imports import importing

_PORT = 6379
_LAYOUTS = {"hash": "direct", "ordered": "ordered", "packed": "packed"}
_NAMES = {layout: name for name, layout in _LAYOUTS.items()}
#: Of TLS, as redis-py names them.
_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_FORM = (
    "redis://HOST:PORT/DB?name=NAME, rediss://USER:PASSWORD@HOST:PORT/DB?name=NAME (TLS),"
    " redis+cluster://HOST:PORT,HOST:PORT/?name=NAME or unix:///PATH/OF/SOCKET?name=NAME"
)


class Parts(NamedTuple):
    """What a URL says. ``hosts``: all but one are of a cluster; of a socket of this machine there is none."""

    cluster: bool
    tls: bool
    socket: str
    hosts: tuple[tuple[str, int], ...]
    db: int
    username: str | None
    password: str | None
    options: tuple[tuple[str, str], ...]
    store: str


def address(url: str, nameless: bool = False) -> Address:
    """Return what a URL names; ``nameless``: it may name no store, but the servers alone.

    :raises ValueError: it is none, or lacks something. The message has no password.
    """
    with importing():
        from urllib.parse import parse_qsl, unquote, urlsplit

    try:
        split = urlsplit(url)
        query = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError:
        _refuse("it is no URL")
    given = dict(query)
    if len(given) < len(query):
        _refuse("a parameter is there twice")
    store = given.pop("name", "")
    if not (store or nameless):
        _refuse("?name= is missing, which says what the store is called there")
    if set(store) & set("{}\0"):
        _refuse(f"name={store!r} has a brace or a NUL, which it must not have")
    layout = given.pop("layout", None)
    if layout is not None and layout not in _LAYOUTS:
        _refuse(f"layout={layout!r}: must be 'hash', 'packed' or 'ordered'")
    login, _, places = split.netloc.rpartition("@")
    username, _, password = login.partition(":")
    is_socket, is_cluster = split.scheme == "unix", split.scheme.endswith("+cluster")
    if is_socket and not split.path.strip("/"):
        _refuse("the path of the socket is missing")
    db = given.pop("db", "0") if is_socket else split.path.strip("/") or "0"
    if not db.isdecimal() or (is_cluster and db != "0"):
        _refuse("the number of the database must be 0 on a cluster" if is_cluster else f"{db!r} is no database")
    if unknown := set(given) - set(_OPTIONS):
        _refuse(f"it has the parameters {', '.join(sorted(unknown))}, which nobody knows")
    hosts = () if is_socket else tuple(map(_host, places.split(",")))
    if len(hosts) > 1 and not is_cluster:
        _refuse("several servers are a cluster: redis+cluster://")
    parts = Parts(
        cluster=is_cluster,
        tls=split.scheme.startswith("rediss"),
        socket=os.path.abspath(unquote(split.path)) if is_socket else "",
        hosts=hosts,
        db=int(db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        options=tuple(sorted(given.items())),
        store=store,
    )
    return _address(parts, _LAYOUTS[layout] if layout else None)


def renamed(other: Address, store: str) -> Address:
    """Return the address of another store on the same servers."""
    return _address(other.parts._replace(store=store), other.layout)


def _address(parts: Parts, layout: str | None) -> Address:
    with importing():
        from urllib.parse import quote

    scheme = "unix" if parts.socket else f"redis{'s' if parts.tls else ''}{'+cluster' if parts.cluster else ''}"
    user = f"{quote(parts.username, safe='')}@" if parts.username else ""
    where = f"{','.join(map(_shown, parts.hosts))}/{'' if parts.cluster else parts.db}"
    words = [_named(parts.store)] if parts.store else []
    words += [f"db={parts.db}"] if parts.socket and parts.db else []
    words += [f"layout={_NAMES[layout]}"] if layout else []
    words += [f"{name}={quote(value, safe='/')}" for name, value in parts.options]
    shown = f"{scheme}://{user}{quote(parts.socket) if parts.socket else where}"
    return Address(f"{shown}?{'&'.join(words)}" if words else shown, parts, layout)


def _named(store: str) -> str:
    with importing():
        from urllib.parse import quote

    return "name=" + quote(store, safe=":/~")


def _host(text: str) -> tuple[str, int]:
    host, port = text, str(_PORT)
    if ":" in text.rpartition("]")[2]:
        host, _, port = text.rpartition(":")
    if not port.isdecimal():
        _refuse("the port is no number")
    return host.strip("[]") or "localhost", int(port)


def _shown(host: tuple[str, int]) -> str:
    return f"[{host[0]}]:{host[1]}" if ":" in host[0] else f"{host[0]}:{host[1]}"


def _refuse(problem: str) -> NoReturn:
    raise ValueError(f"the store's name is a URL, and {problem}. It is like {_FORM}")
