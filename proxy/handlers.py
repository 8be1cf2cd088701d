"""Who serves what is only there because a route asks for it.

Each of them plans its route, lets the caller in (`proxy.entry`), and answers; failures are raised
and told by the exchange, as everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from proxy.core.wire.target import Kind, Target
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import Client

Handler = Callable[[House, Client, Facts, Target], Awaitable[None]]

HANDLERS: Final[Mapping[Kind, Handler]] = {}
