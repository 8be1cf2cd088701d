"""What Redis and the network say, in words of ours: theirs may hold anything, also a password."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Final

from redis import exceptions as said

from proxy.state.home import StateError

FAILURES: Final = (
    *(said.RedisError, OSError, EOFError),
    # What the package does with bytes that no Redis sends.
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),
)
"""All that a connection to something that may not be Redis raises; `ssl.SSLError` and time-outs are
an OSError."""


class NoScript(StateError):
    """The script has to be sent whole."""


class Refused(StateError):
    """Redis has answered, and does not do it."""


def explained(name: str, error: BaseException) -> StateError:
    """`name`: what messages call the server."""
    if isinstance(error, StateError):
        return error
    if isinstance(error, said.NoScriptError):
        return NoScript(f"{name} does not know the script")
    for kind, text in _SAID:
        if isinstance(error, kind):
            return Refused(f"{name} {text}")
    if isinstance(error, said.ResponseError):
        return Refused(f"{name} refuses a command{_code(error)}")
    cause = error.__context__ if isinstance(error, said.ConnectionError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return StateError(f"{name} shows a certificate that is not good: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return StateError(f"{name} does not speak TLS as it should")
    if isinstance(cause, TimeoutError | asyncio.TimeoutError):
        return StateError(f"{name} did not answer in time")
    if isinstance(cause, OSError) and cause.strerror:
        return StateError(f"{name} cannot be reached: {cause.strerror}")
    if isinstance(error, said.ConnectionError | OSError | EOFError):
        return StateError(f"{name} closed the connection")
    return not_redis(name)


def not_redis(name: str) -> StateError:
    """What answers is none, or one that nobody knows."""
    return StateError(f"{name} does not speak as Redis does")


_SAID: Final = (
    (said.AuthenticationError, "does not accept the user and password of state (or wants them)"),
    (said.NoPermissionError, "does not let this user do it: see which commands and keys it needs"),
    (said.ReadOnlyError, "is a read-only replica"),
    (said.OutOfMemoryError, "is out of memory"),
    (said.BusyLoadingError, "is still loading its data"),
    (said.MovedError, "is part of a cluster, which is not supported"),
    (said.AskError, "is part of a cluster, which is not supported"),
    (said.MasterDownError, "has lost its primary"),
    (said.ClusterDownError, "is part of a cluster, which is not supported"),
)
_CODE: Final = re.compile(r"[A-Z]{3,16}\Z")


def _code(error: said.ResponseError) -> str:
    word = str(error).partition(" ")[0]
    return f" ({word})" if _CODE.match(word) else ""
