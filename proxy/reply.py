"""What an exchange tells its client: whole answers, failures, and the headers of ours on them.

Everything is told in the client's dialect. Before the commit a failure is a status; after it, an
event and an end that cannot be taken for a whole answer.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.flow.metadata import Annotated
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.access import Reason
from proxy.core.policy.retry import OVERLOADED_FOR, Reaction
from proxy.core.record import overhead
from proxy.core.wire import handshake
from proxy.core.wire import headers as policy
from proxy.core.wire.answers import error_body, error_message, masked
from proxy.errors import (
    ClientGone,
    Forbidden,
    MethodNotAllowed,
    ProxyError,
    TryLater,
    Unauthorized,
    UpgradeRequired,
    UpstreamSaid,
)
from proxy.facts import Facts
from proxy.house import House
from proxy.lane import Lane
from proxy.net.halves import Client, Headers


def answer(
    client: Client,
    facts: Facts,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    failed: bool = False,
    retry_after: float | None = None,
) -> None:
    """A whole answer. `failed`: it is an error that a further attempt might have mended."""
    should_retry = None
    if failed and facts.pursuit is not None and facts.pursuit.is_final:
        should_retry = False
    ours = added(facts, stream=False, should_retry=should_retry, retry_after=retry_after)
    client.answer(status, [*headers, *ours], body)
    facts.status = status
    if facts.outcome == ClientGone.code:
        facts.outcome = "completed"
    facts.stage = "done"


def fail(client: Client, facts: Facts, error: ProxyError) -> None:
    """The exchange ends with `error`."""
    facts.outcome = error.code if not isinstance(error, UpstreamSaid) else "upstream_failed"
    facts.error = error.message
    facts.refused = _refused(error)
    if isinstance(error, ClientGone):
        return
    if client.has_begun:
        is_chat = facts.pursuit is not None or facts.cache is not None
        events = [facts.dialect.error_event(error)] if is_chat else []
        client.cut(events)
        return
    headers = [policy.JSON]
    if isinstance(error, MethodNotAllowed):
        headers.append((policy.ALLOW, error.allow))
    if isinstance(error, Unauthorized):
        headers.append(policy.CHALLENGE)
    if isinstance(error, UpgradeRequired):
        headers += handshake.HERE
    wait = error.retry_after if isinstance(error, TryLater) else None
    body = facts.dialect.error_body(error)
    answer(client, facts, error.status, headers, body, failed=True, retry_after=wait)


def _refused(error: ProxyError) -> str | None:
    match error:
        case Unauthorized(reason=reason):
            return reason
        case Forbidden():
            return Reason.SCOPE
        case _:
            return None


# --- what the upstream said ----------------------------------------------------------------------


def whole(house: House, client: Client, facts: Facts, lane: Lane) -> None:
    """An answer that is no stream, or an error of the upstream."""
    attempt = lane.attempt
    assert attempt is not None
    head, body = attempt.head, attempt.body
    assert head is not None
    headers = policy.to_client(head.headers, stream=False)
    if lane.has_failed:
        said(house, client, facts, lane, headers, body)
        return
    facts.timeline.committed = house.clock()
    if lane.answer is not None:
        facts.usage, facts.finish_reason = lane.answer.usage, lane.answer.finish_reason
    answer(client, facts, head.status, policy.said_anew(headers, as_json=False), body)


def said(
    house: House, client: Client, facts: Facts, lane: Lane, headers: Headers, body: bytes
) -> None:
    """An error of the upstream, with its status and code. Raises it after an early commit."""
    assert lane.attempt is not None
    assert lane.attempt.head is not None
    status = lane.attempt.head.status
    for secret in house.knowledge.secrets(lane.candidate.endpoint):
        body = masked(body, secret)
    facts.upstream_code = facts.dialect.error_code(body)
    status = status if status >= 400 else UpstreamSaid.status
    if client.has_begun:
        message = error_message(body) or f"the upstream answered with status {status}"
        raise UpstreamSaid(message, status=status, code=facts.upstream_code)
    facts.timeline.committed = house.clock()
    facts.outcome = "upstream_failed"
    answer(
        client,
        facts,
        status,
        policy.said_anew(headers, as_json=True),
        error_body(facts.dialect, status, body),
        failed=True,
        retry_after=_come_back(house, lane, headers),
    )


def _come_back(house: House, lane: Lane, headers: Headers) -> float | None:
    """Seconds to wait before asking an overloaded platform again, where it does not say."""
    overloaded = lane.verdict is not None and lane.verdict.reaction is Reaction.OVERLOAD
    if not overloaded or any(name == "retry-after" for name, _ in headers):
        return None
    return OVERLOADED_FOR * (1.0 + house.roll() / 2)


# --- of ours -------------------------------------------------------------------------------------


def added(
    facts: Facts,
    *,
    stream: bool,
    should_retry: bool | None = None,
    retry_after: float | None = None,
) -> list[tuple[str, str]]:
    """The headers of ours, with what is known by now."""
    served, pursuit = facts.served_by, facts.pursuit
    headers = policy.added(
        request_id=facts.id,
        model=served.model if served else facts.cached_model,
        endpoint=served.endpoint.name if served else None,
        attempts=(pursuit.attempts or None) if pursuit else None,
        timings=timings(facts, facts.timeline),
        stream=stream,
        should_retry=should_retry,
        retry_after=retry_after,
        route=facts.route.name if facts.route else None,
        reason=facts.reason if pursuit else None,
        changes=pursuit.changes if pursuit else (),
    )
    if facts.recall is not None:
        headers.append(facts.recall.header)
    if facts.cache is not None:
        headers.append(("x-glm-proxy-cache", facts.cache))
    if facts.cache_age is not None:
        headers.append(("age", str(facts.cache_age)))
    return [*headers, *facts.rate]


def passed(facts: Facts, headers: Headers) -> Headers:
    """The upstream's response headers, without those that tell of limits where ours do."""
    if not facts.rate:
        return headers
    ours = {name for name, _ in facts.rate}
    return [(name, value) for name, value in headers if name not in ours]


def annotated(
    write: Callable[[list[bytes], bool], None],
    facts: Facts,
    timeline: Callable[[], Timeline],
) -> Annotated:
    """A writer for `emit_metadata`: `write` with two comments of ours around the events.

    `timeline` is asked when the last of them is written.
    """
    pursuit, served, route = facts.pursuit, facts.served_by, facts.route
    assert pursuit is not None
    assert served is not None
    assert route is not None
    decision = {
        "request_id": facts.id,
        "route": route.name,
        "reason": facts.reason,
        "model": served.model,
        "endpoint": served.endpoint.name,
        "changes": pursuit.changes,
        "attempts": pursuit.attempts,
    }
    return Annotated(write, decision, lambda: timings(facts, timeline(), ended=True))


def timings(facts: Facts, t: Timeline, *, ended: bool = False) -> list[tuple[str, float]]:
    """What `server-timing` and the last comment of `emit_metadata` tell, in seconds: when each
    stage was reached since the request came, as far as it has been, and our overhead.

    parsed          the body was read and understood
    admitted        the attempt that answers got its place, and began
    sent            it was on a connection
    headers         the upstream's head came
    first_byte first_event first_token first_content   of its answer
    committed       the status goes to the client
    last_event      only in the comment
    overhead        no moment but a span: of the time until `committed`, ours alone
    """
    admitted, elsewhere = _admitted(facts)
    marks = (
        ("parsed", t.parsed),
        ("admitted", admitted),
        ("sent", t.sent),
        ("headers", t.headers),
        ("first_byte", t.first_byte),
        ("first_event", t.first_event),
        ("first_token", t.first_token),
        ("first_content", t.first_content),
        ("committed", t.committed),
        ("last_event", t.last_event if ended else None),
    )
    reached = [(name, mark - t.received) for name, mark in marks if mark is not None]
    ours = overhead(t, elsewhere)
    return reached if ours is None else [*reached, ("overhead", ours)]


def _admitted(facts: Facts) -> tuple[float | None, float]:
    """When the attempt that answers began, and how long that was waited for elsewhere.

    Where the answer is another exchange's there is no such moment.
    """
    pursuit = facts.pursuit
    answering = None if pursuit is None or facts.shared else pursuit.current
    if pursuit is None or answering is None or answering.attempt is None or not answering.won:
        return None, 0.0
    begun = next(lane for lane in pursuit.lanes if lane.attempt is not None)
    assert begun.attempt is not None
    at = answering.attempt.started
    return at, at - begun.attempt.started + begun.waited
