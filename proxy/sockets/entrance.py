"""From a request for a WebSocket to its end: who may open one, and who speaks on it.

The Origin and the key were checked before (`proxy.exchange`). A refusal is an HTTP answer; after
the 101 what goes wrong is told by a close code. The WebSocket itself is one exchange, with one
record; so is each chat on it.
"""

from __future__ import annotations

from typing import Final

from proxy import reply
from proxy.core.wire import handshake
from proxy.core.wire.target import Target
from proxy.core.wire.websocket import ABNORMAL, FAILED, GOING_AWAY
from proxy.errors import ClientGone, Forbidden
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import Client
from proxy.net.websocket import Socket
from proxy.sockets import chats, realtime, responses
from proxy.sockets.crowd import RECONNECT

_RESPONSES: Final = "/responses"


async def serve(house: House, client: Client, facts: Facts, target: Target) -> None:
    """Open it, and stay until it is over. Raises ProxyError for a refusal and for a bad end."""
    headers = client.headers()
    handshake.accept((1, 1), headers, has_body=client.has_body)  # before anything is asked for it
    facts.timeline.parsed = house.clock()
    if target.tail == realtime.TAIL:
        await _realtime(house, client, facts, target)
        return
    lower = {name.lower(): value for name, value in headers}
    assert facts.caller is not None
    facts.route = house.router.opens(target, lower, facts.caller.key_name)
    if facts.route is None:
        raise Forbidden("no route allows a WebSocket here (websocket: true)")
    speak = responses.converse if target.tail == _RESPONSES else chats.converse
    socket = open_socket(house, client, facts)
    try:
        await speak(house, socket, facts, target, headers, client.peer)
        await socket.close()
    finally:
        end(client, socket)
    settle(facts, socket)


async def _realtime(house: House, client: Client, facts: Facts, target: Target) -> None:
    async with realtime.connected(house, client, facts, target) as peer:
        socket = open_socket(house, client, facts)
        facts.on_interrupt = lambda _: socket.end(GOING_AWAY, RECONNECT)
        try:
            await realtime.relay(socket, peer)
        finally:
            end(client, socket)
        settle(facts, socket)


def open_socket(house: House, client: Client, facts: Facts) -> Socket:
    """Answer 101. Raises ClientError, UpgradeRequired, Draining, ClientGone."""
    headers = reply.added(facts, stream=False)
    protocol = handshake.agreed(handshake.offered(client.headers()))
    if protocol is not None:
        headers.append(("sec-websocket-protocol", protocol))
    socket = client.upgrade(headers, house.config.websocket)
    facts.timeline.committed = house.clock()
    facts.status = 101
    facts.stage = "streaming"
    return socket


def end(client: Client, socket: Socket) -> None:
    """Whatever happened: the client is told, and what was sent is counted."""
    if socket.closing:
        socket.end(GOING_AWAY, RECONNECT)
    socket.end(FAILED, "the proxy failed")
    client.bytes_out = socket.bytes_out


def settle(facts: Facts, socket: Socket) -> None:
    """How it ended. Raises what ended it, if that was no good end."""
    if socket.error is not None:
        raise socket.error
    if socket.code == ABNORMAL:
        raise ClientGone("the client left without a word")
    facts.outcome = "completed"
    facts.stage = "done"
