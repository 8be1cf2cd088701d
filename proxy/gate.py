"""Who is let in, and to what: decided on the key and the matched target, before a body is read."""

from __future__ import annotations

from collections.abc import Callable

from proxy.config import Config
from proxy.core.policy.access import Caller
from proxy.core.wire.target import Target


class Gate:
    """Asked by every exchange. What it cannot tell it refuses."""

    def __init__(self, config: Config, *, fingerprint: Callable[[str], str]) -> None:
        """`fingerprint` tells the keys of callers apart without telling them."""
        self._config = config
        self._fingerprint = fingerprint

    def identify(self, key: str | None, peer: str) -> Caller:
        """Who asks: by the key that was shown, and the address. Raises Unauthorized."""
        if key is None:
            return Caller(peer)
        fingerprint = self._fingerprint(key)
        return Caller(fingerprint, fingerprint)

    def permit(self, caller: Caller, target: Target, route: str, model: str | None) -> None:
        """Whether the caller may use this. Raises Forbidden."""
