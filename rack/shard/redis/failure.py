"""What an error of a server, or of the way to it, means to the user."""

from __future__ import annotations

import errno

from redis import exceptions

from rack.errors import RackError, ServerError, ServerTimeoutError, StoreFullError, TooLargeError
from rack.shard.problem import corrupt

LOST = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_LOGIN = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED")
#: What passes: another node takes over, a slot is moved, data are being loaded.
_PASSING = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "NOREPLICAS", "BUSY")
_CODES = {
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.AuthenticationError: "WRONGPASS",
    exceptions.AuthorizationError: "NOPERM",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.MovedError: "MOVED",
    exceptions.AskError: "ASK",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.MasterDownError: "MASTERDOWN",
}


def code_of(error: BaseException) -> str:
    """Return the word that a server's error begins with, which redis-py takes off some."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    text = str(error)
    word = text.split(" ", 1)[0].rstrip(":")
    if word == "OOM" or "command not allowed when used memory" in text:
        return "OOM"  # also inside of a script
    return word if word.isupper() else ""


def is_refusal(error: BaseException) -> bool:
    """Return whether a server does not let this user in, or not do that: nothing is to be gained by waiting."""
    return code_of(error) in _LOGIN or "invalid username-password" in str(error) or "without any password" in str(error)


def is_passing(error: BaseException) -> bool:
    return code_of(error) in _PASSING


def translated(error: BaseException, path: str) -> Exception:
    """Return the error for what a server answered, or did not."""
    code = code_of(error)
    if isinstance(error, RackError):
        return error
    if code == "OOM":
        return StoreFullError(
            errno.ENOSPC,
            "the server has no memory left (maxmemory); nothing was changed. What is deleted makes room",
            path,
        )
    if code == "WRONGTYPE":
        return corrupt(path, "is not Rack's: something else is under its name on the server")
    if is_refusal(error):
        return ServerError(f"{path}: the server does not let this user do that: {_plain(error)}")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return late(path, str(error))
    if isinstance(error, LOST) or is_passing(error):
        return ServerError(f"{path}: the server cannot be reached: {_plain(error)}")
    if "invalid bulk length" in str(error):
        return TooLargeError(f"{path}: a key or value is larger than the server takes (proto-max-bulk-len)")
    return ServerError(f"{path}: the server answered: {_plain(error)}")


def late(path: str, reason: str) -> ServerTimeoutError:
    return ServerTimeoutError(
        f"{path}: the servers did not answer in time ({reason}). If this was a write, it may have happened, or still"
        " happen when the server goes on"
    )


def _plain(error: BaseException) -> str:
    return f"{code_of(error)} {error}".strip() if code_of(error) not in str(error) else str(error)
