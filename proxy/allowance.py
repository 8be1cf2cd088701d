"""How much callers may use: taken before the upstream is asked, settled when it is over."""

from __future__ import annotations

from typing import NamedTuple

from proxy.config import Limits
from proxy.core.policy.access import Caller
from proxy.core.policy.limits import Taken, Want
from proxy.core.record import Usage
from proxy.state.home import Home


class Share(NamedTuple):
    """What one exchange took. Give it back with `settle`."""

    wants: tuple[Want, ...]
    lease: str
    taken: Taken


class Allowances:
    """The limits of the settings, counted in the home of state."""

    def __init__(self, limits: Limits, home: Home) -> None:
        self._limits = limits
        self._home = home

    async def take(self, caller: Caller, request_id: str, size: int) -> Share | None:
        """A share for one request of `size` bytes; None: nothing is limited. Raises LimitReached."""
        return None

    def settle(self, share: Share, usage: Usage | None, sent: int) -> None:
        """It is over. `usage` as the upstream told it; where it did not, it is estimated by the
        `sent` bytes of the answer."""
        self._home.settle(share.wants, share.lease, 0)
