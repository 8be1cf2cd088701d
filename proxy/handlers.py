"""Who serves what is only there because a route asks for it.

Each of them plans its route, lets the caller in (`proxy.entry`), and answers; failures are raised
and told by the exchange, as everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from proxy.core.wire.target import Kind, Target
from proxy.facts import Facts
from proxy.forgetting import forget
from proxy.house import House
from proxy.net.halves import Client
from proxy.responding.serving import told
from proxy.resuming import resume
from proxy.sockets import entrance

Handler = Callable[[House, Client, Facts, Target], Awaitable[None]]

HANDLERS: Final[Mapping[Kind, Handler]] = {
    Kind.MEMORY: forget,
    Kind.RESPONSES: told,
    Kind.SOCKET: entrance.serve,
    Kind.STREAMS: resume,
}
