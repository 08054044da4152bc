"""URLs that name stores: what they mean, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from rack import PersistentDict, PersistentSet
from rack.shard.redis.url import address, renamed


@pytest.mark.parametrize(
    ("url", "shown", "hosts"),
    [
        ("redis://h:1/2?name=a:b", "redis://h:1/2?name=a:b", (("h", 1),)),
        ("redis://h?name=a", "redis://h:6379/0?name=a", (("h", 6379),)),
        ("redis://:p@h/?name=a%20b", "redis://h:6379/0?name=a%20b", (("h", 6379),)),
        ("rediss://u:p%40x@[::1]:7/0?name=a", "rediss://u@[::1]:7/0?name=a", (("::1", 7),)),
        ("redis+cluster://u:p@h:1,i:2/?name=a", "redis+cluster://u@h:1,i:2/?name=a", (("h", 1), ("i", 2))),
        ("unix:///run/r.sock?name=a&db=3", "unix:///run/r.sock?name=a&db=3", ()),
        ("redis://h/0?layout=ordered&name=a", "redis://h:6379/0?name=a&layout=ordered", (("h", 6379),)),
    ],
)
def test_a_url_says_where_the_store_is(url: str, shown: str, hosts: object) -> None:
    found = address(url)
    assert found == shown
    assert found.parts.hosts == hosts
    assert address(shown).parts._replace(password=None) == found.parts._replace(password=None)
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.parts, again.layout) == (found, found.parts, found.layout)


def test_the_parts_are_taken_off_their_quotes() -> None:
    parts = address("rediss://me%3A:p%40%2F@h/7?name=x%2Fy&ssl_ca_certs=/ca.pem").parts
    assert (parts.username, parts.password, parts.db, parts.store, parts.tls) == ("me:", "p@/", 7, "x/y", True)
    assert parts.options == (("ssl_ca_certs", "/ca.pem"),)
    assert renamed(address("redis://:p@h/0?name=a"), "b~1") == "redis://h:6379/0?name=b~1"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:hush@h/0", "name= is missing"),
        ("redis://:hush@h/0?name=", "name= is missing"),
        ("redis://:hush@h/0?name=a{b}", "brace"),
        ("redis://:hush@h/0?name=a&name=b", "twice"),
        ("redis://:hush@h/0?name=a&layout=tree", "layout"),
        ("redis://:hush@h/0?name=a&password=hush", "password"),
        ("redis://:hush@h/x?name=a", "no database"),
        ("redis+cluster://:hush@h/1?name=a", "must be 0"),
        ("redis://:hush@h:1,i:2/0?name=a", "cluster"),
        ("redis://:hush@h:port/0?name=a", "port"),
        ("unix://?name=a", "socket"),
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        PersistentSet(url)
    assert "hush" not in str(caught.value)


def test_the_engine_and_the_name_have_to_fit(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="must be a URL"):
        PersistentDict(f"{tmp_path}/d", engine="redis")
    with pytest.raises(ValueError, match="'redis'"):
        PersistentDict("redis://h/0?name=d", engine="lmdb")
    with pytest.raises(ValueError, match="'ftp'"):
        PersistentDict(f"{tmp_path}/d", engine="ftp")


def test_without_the_library_it_is_said_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['redis'] = None\nimport rack\n"
        "try:\n    rack.PersistentSet('redis://:hush@h/0?name=s').open()\n"
        "except rack.MissingLibraryError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "rack[redis]"' in done.stdout
    assert "hush" not in done.stdout
