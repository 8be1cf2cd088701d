"""`GET /v1/streams/ID`: a kept stream goes on where its client lost it.

It is told from the event after the last one the client has, as the first client would have got it:
live while it runs, with the same end, good or bad. Only to the caller it was made for: to others it
does not exist. No upstream is asked for it, so it costs no tokens, and counts for no limit. A
stream that another worker keeps is fetched there.
"""

from __future__ import annotations

from typing import Final

from proxy import reply
from proxy.core.policy.scope import scope_of
from proxy.core.wire import headers as policy
from proxy.core.wire.event_ids import STREAM, Write, are_numbered, numbered, received
from proxy.core.wire.target import Target
from proxy.errors import ClientError, Forgotten, NotFound
from proxy.facts import Facts
from proxy.house import House
from proxy.net.early import EarlyCommit
from proxy.net.halves import Client, Headers
from proxy.net.keeping import Ring
from proxy.net.relay import RelayedClient, relay

_UNKNOWN: Final = "there is no such stream, or its time is over"


async def resume(house: House, client: Client, facts: Facts, target: Target) -> None:
    """One exchange. Raises ProxyError."""
    facts.timeline.parsed = house.clock()
    facts.stream = True
    headers, name = client.headers(), target.tail.removeprefix("/")
    if policy.names_anthropic(headers):
        facts.dialect = house.dialects["anthropic"]
    ring = house.keeper.find(name)
    if ring is None:
        await _elsewhere(house, client, facts, name)
        return
    _check(house, facts, target, ring, headers)
    position = received(headers, target.query)
    if position > ring.end:
        raise ClientError(f"the stream has {ring.end} events; none has the number {position}")
    if position < ring.start:
        raise Forgotten(
            f"event {position + 1} was forgotten, since too much came after it: the stream can be"
            f" continued after event {ring.start}, or later"
        )
    await _tell(house, client, facts, ring, position)


def _check(house: House, facts: Facts, target: Target, ring: Ring, headers: Headers) -> None:
    """Raises NotFound for everybody but the one it is kept for, and Forbidden."""
    whose, caller = ring.whose, facts.caller
    assert caller is not None
    if whose.scope != scope_of(caller, policy.caller_key(headers)):
        raise NotFound(_UNKNOWN)
    facts.dialect, facts.route = house.dialects[whose.dialect], whose.route
    facts.model = whose.model
    house.gate.permit(caller, target, whose.route.name, whose.model)


async def _elsewhere(house: House, client: Client, facts: Facts, name: str) -> None:
    """It may be another worker's; who comes from one is sent no further."""
    socket = house.keeper.elsewhere(name)
    if socket is None or isinstance(client, RelayedClient):
        raise NotFound(_UNKNOWN)
    facts.stage = "streaming"
    await relay(client, socket, lambda: _commit(house, facts))
    facts.outcome, facts.stage = "completed", "done"


async def _tell(house: House, client: Client, facts: Facts, ring: Ring, position: int) -> None:
    stream = ring.whose.route.stream
    reader = ring.join(facts.timeline, position)
    try:
        with EarlyCommit(
            client, stream.heartbeat, lambda: [(STREAM, ring.id), *_commit(house, facts)]
        ) as early:
            await ring.begun()
            early.commit()
        facts.stage = "streaming"
        client.on_flow = reader.flow
        error = await reader.stream_into(_writer(client, ring, position), client)
    finally:
        ring.leave(reader)
        facts.heartbeats = early.heartbeats + reader.heartbeats
    if error is not None:
        client.cut([facts.dialect.error_event(error)])
        raise error
    if ring.ended:
        facts.outcome, facts.stage = "completed", "done"
    else:  # the upstream told its own error in the stream
        client.cut([])
        facts.outcome = "upstream_failed"


def _commit(house: House, facts: Facts) -> Headers:
    facts.status = 200
    facts.timeline.committed = house.clock()
    return reply.added(facts, stream=True)


def _writer(client: Client, ring: Ring, position: int) -> Write:
    if are_numbered(ring.whose.dialect, client.headers()):
        return numbered(client.write, position + 1)
    return client.write
