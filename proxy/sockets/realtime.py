"""GLM-Realtime: a WebSocket of the client and one to the upstream, message by message.

Nothing of it is understood. Each side is pinged, and answered, by itself; each is read only as far
as the other reads; how one closes is how the other is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from proxy.core.wire import handshake
from proxy.core.wire.answers import error_message, masked
from proxy.core.wire.target import Target
from proxy.core.wire.websocket import ABNORMAL, FAILED, GOING_AWAY, NO_CODE
from proxy.entry import let_in
from proxy.errors import Forbidden, UpstreamProtocolError, UpstreamReset, UpstreamSaid
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import Client
from proxy.net.open_sockets import Limits
from proxy.net.websocket import Socket
from proxy.net.websocket_dial import Refused, UpstreamSocket, dialled

TAIL: Final = "/realtime"
_LARGEST: Final = 16 << 20
"""Bytes of a message of the upstream: it answers in many small ones."""
_ANSWER: Final = 30.0
"""Seconds that the upstream has for its answer where the route says nothing."""


@asynccontextmanager
async def connected(
    house: House, client: Client, facts: Facts, target: Target
) -> AsyncIterator[UpstreamSocket]:
    """The upstream's side: before the client's, so that its refusal is an HTTP answer.

    Raises Forbidden, LimitReached, UpstreamError.
    """
    headers = handshake.with_key(client.headers())
    lower = {name.lower(): value for name, value in headers}
    caller = facts.caller
    assert caller is not None
    route = facts.route = house.router.plan(None, target, lower, house.wall(), caller.key_name)
    if not route.websocket:
        raise Forbidden("the route of this path allows no WebSocket (websocket: true)")
    await let_in(house, facts, target, route, None)
    candidate = facts.passed_to = route.candidates[0]
    facts.stage = "connecting"
    outgoing = house.outgoing(
        target,
        candidate.endpoint,
        client.method,
        headers,
        b"",
        request_id=facts.id,
        key=house.knowledge.secret(candidate, None),
        trace=facts.join(),
    )
    limits = Limits(_LARGEST, house.config.websocket.ping_interval)
    upstream = house.upstreams[candidate.endpoint.name]
    facts.timeline.sent = house.clock()
    async with dialled(upstream, outgoing, limits, route.timeouts.headers or _ANSWER) as peer:
        facts.timeline.headers = house.clock()
        if isinstance(peer, Refused):
            body = peer.body
            for secret in house.knowledge.secrets(candidate.endpoint):
                body = masked(body, secret)
            raise _refusal(facts, peer.head.status, body)
        yield peer


def _refusal(facts: Facts, status: int, body: bytes) -> UpstreamSaid:
    facts.upstream_code = facts.dialect.error_code(body)
    message = error_message(body) or f"the upstream opened no WebSocket: status {status}"
    status = status if status >= 400 else UpstreamSaid.status
    return UpstreamSaid(message, status=status, code=facts.upstream_code)


async def relay(client: Socket, upstream: Socket) -> None:
    """Both ways until one of them is over, then the other. Raises UpstreamError."""
    await asyncio.gather(
        _pump(client, upstream, (GOING_AWAY, "the client left")),
        _pump(upstream, client, (FAILED, "the connection to the upstream broke")),
    )
    await asyncio.gather(client.close(), upstream.close())
    if upstream.error is not None:
        raise UpstreamProtocolError(f"the upstream broke WebSocket: {upstream.error.message}")
    if upstream.code == ABNORMAL:
        raise UpstreamReset("the upstream's WebSocket ended without a Close")


async def _pump(source: Socket, sink: Socket, broken: tuple[int, str]) -> None:
    """`broken`: what `sink` is told of an end of `source` that is none of WebSocket's."""
    while (message := await source.receive()) is not None:
        sink.send(message.data, text=message.text)
        await sink.drain()
    if source.code == ABNORMAL or source.error is not None:
        sink.end(*broken)
    else:
        sink.end(None if source.code == NO_CODE else source.code, source.reason)
