"""Letting an exchange in: whether its caller may use the route, and what it takes of its limits."""

from __future__ import annotations

from proxy.core.policy.rate_headers import rate_headers
from proxy.core.policy.route import Route
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Target
from proxy.errors import ClientError
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import HTTP, Client


def check_carrier(client: Client, route: Route) -> None:
    """Raises ClientError for a chat on a WebSocket whose route allows none."""
    if client.carrier != HTTP and not route.websocket:
        text = "what serves this request allows no WebSocket (websocket: true); send it over HTTP"
        raise ClientError(text, param="model")


async def let_in(
    house: House, facts: Facts, target: Target, route: Route, request: ChatRequest | None
) -> None:
    """`request` is None where the body is not read. Raises Forbidden, LimitReached."""
    assert facts.caller is not None
    model = None if request is None else request.model
    house.gate.permit(facts.caller, target, route.name, model)
    await count_in(house, facts, 0 if request is None else request.size)


async def count_in(house: House, facts: Facts, size: int) -> None:
    """Take a request of `size` bytes from the caller's limits. Raises LimitReached."""
    assert facts.caller is not None
    wants = house.allowances.wants(facts.caller, size)
    if wants:
        share = facts.share = await house.allowances.take(wants)
        facts.rate = rate_headers(share.taken, facts.dialect.name, house.wall())
        house.allowances.insist(share)
