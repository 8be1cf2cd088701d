"""What one exchange asks for, apart from the request's body."""

from __future__ import annotations

from typing import NamedTuple

from proxy.core.wire.dialect import Dialect
from proxy.core.wire.target import Target
from proxy.core.wire.trace import Trace
from proxy.memory.recall import Recall
from proxy.net.halves import Headers


class Asked(NamedTuple):
    """Made by the exchange, read by the pursuit; it lives as long as they do."""

    id: str
    target: Target
    dialect: Dialect
    method: str
    headers: Headers
    caller: str
    """A fingerprint of the caller's key, or the caller's address."""
    received: float
    streams: bool
    """The upstream is asked for a stream, whatever the client wants."""
    wants_stream: bool
    """The client does."""
    hasty: bool
    """The caller set deadlines of its own: that one was missed says nothing of a candidate."""
    trace: Trace | None
    recall: Recall | None = None
    """None where the route remembers nothing."""
