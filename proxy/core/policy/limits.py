"""How much a caller may still use: what is wanted, what is left, and why something is refused."""

from __future__ import annotations

from typing import Literal, NamedTuple

from proxy.config import Allowance


class Want(NamedTuple):
    """One request, as one of the subjects it is counted for sees it."""

    subject: str
    """`key:ID`, or `total`."""
    allowance: Allowance
    tokens: int
    """Expected; `settle` says what they were."""


class Left(NamedTuple):
    """What remains of one limit, as `x-ratelimit-*` tells it."""

    limit: int
    remaining: int
    reset: float
    """Seconds until nothing of it is used."""


class Refusal(NamedTuple):
    """A limit that is reached."""

    what: Literal["requests", "tokens", "concurrent", "day"]
    subject: str
    retry_after: float
    """Seconds until it is worth to ask again."""


class Taken(NamedTuple):
    """The answer to what was wanted: all of it counted, or nothing."""

    refused: Refusal | None = None
    requests: Left | None = None
    """Of the subject that has the least left; None: no such limit."""
    tokens: Left | None = None
