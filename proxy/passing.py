"""Every other path of the API: one candidate is asked, and both bodies pass as they come."""

from __future__ import annotations

from functools import partial

from proxy import reply
from proxy.core.wire import headers as policy
from proxy.core.wire.target import Target
from proxy.entry import let_in
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import Client, Headers
from proxy.net.passthrough import Answer, passthrough


async def pass_on(house: House, client: Client, facts: Facts, target: Target) -> None:
    """One exchange. Raises ProxyError."""
    facts.timeline.parsed = house.clock()
    headers = client.headers()
    lower = {name.lower(): value for name, value in headers}
    assert facts.caller is not None
    key = facts.caller.key_name
    route = facts.route = house.router.plan(None, target, lower, house.wall(), key)
    await let_in(house, facts, target, route, None)
    candidate = facts.passed_to = route.candidates[0]
    facts.stage = "connecting"
    await passthrough(
        client,
        house.upstreams[candidate.endpoint.name],
        house.outgoing(
            target,
            candidate.endpoint,
            client.method,
            headers,
            b"",
            request_id=facts.id,
            key=house.knowledge.secret(candidate, None),
            trace=facts.join(),
        ),
        head=partial(_head, house, facts),
        mask=house.knowledge.mask(candidate.endpoint),
        total=route.timeouts.total,
    )
    facts.outcome = "completed"
    facts.stage = "done"


def _head(house: House, facts: Facts, answer: Answer) -> Headers:
    timeline = facts.timeline
    facts.passed = answer
    timeline.sent = answer.sent
    timeline.headers = timeline.committed = house.clock()
    facts.status = answer.head.status
    facts.stage = "streaming"
    ours = reply.added(facts, stream=False)
    theirs = policy.to_client(answer.head.headers, stream=False)
    return [*reply.passed(facts, theirs), *ours]
