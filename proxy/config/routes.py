"""Settings of routes: which requests, what to try, with which parameters, timers and stream."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from proxy.config.attempts import Admission, Attempts, HedgeOrOff
from proxy.config.conversation import Cache, Leaving, Memory, OnDisconnect, Responses
from proxy.config.params import Params
from proxy.config.types import SILENT_IF_EMPTY, Count, CountOrZero, Flag, Name, Section
from proxy.config.units import Bytes, BytesOrZero, Percentile, Seconds, SecondsOrZero


class StreamSettings(Section):
    """How events reach the client."""

    text_buffer_size: Count = 1
    """Characters of visible text that must wait before an event leaves. 1: every delta at once."""
    text_buffer_max_delay: SecondsOrZero = 0.1
    """Longest wait for text_buffer_size characters."""
    split_text: CountOrZero = 0
    """Longest text per event, in characters. 0: never split."""
    emit_metadata: Flag = False
    """Add SSE comments that tell the decision and the stage times."""
    heartbeat: SecondsOrZero = 15.0
    """A comment line after so long a silence. 0: none."""
    max_event: Bytes = 8 << 20
    """Largest single event from an endpoint."""
    client_stall: Seconds = 60.0
    """A client that takes no byte for so long is cut off."""
    upgrade: Flag = False
    """Stream upstream what the client wants whole, so that first-token timers and hedging work for
    it too; the answer is put together here."""


class Timeouts(Section):
    """Deadlines of one attempt, counted from when the request was sent; `total` is for all attempts
    of a request. Callers may set theirs by request headers such as
    x-glm-proxy-timeout-first-token, up to `total`."""

    connect: Seconds | None = None
    """Until the request is on a connection; never longer than pool.connect_timeout and
    acquire_timeout allow."""
    headers: Seconds | None = None
    """Until the response's head, where another candidate can take over or there is only one. A
    whole answer's head comes with the answer."""
    first_token: Seconds | None = None
    """Until the first token of the answer. Where another candidate can take over: 30s without it.
    The last of several candidates keeps what remains of `total`, because an attempt that nothing
    can replace is better late than failed; so does the only one, unless this is set."""
    idle: Seconds = 60.0
    """Between two events; heartbeats of the endpoint do not count."""
    total: Seconds = 1800.0
    """For the whole answer."""


Patterns = Annotated[tuple[str, ...], SILENT_IF_EMPTY]


class Match(Section):
    """Which requests a route takes: all conditions that are given must hold."""

    model: Patterns = ()
    """Shell patterns for the model asked for."""
    path: Patterns = ()
    """Shell patterns for the request's path."""
    header: dict[str, str] = Field(default_factory=dict)
    """Header name to shell pattern of its value."""
    key: Patterns = ()
    """Shell patterns for the name of the caller's virtual key (`access: keys`)."""
    stream: Flag | None = None
    """Only streaming (true) or only other (false) requests."""
    min_prompt: BytesOrZero | None = None
    """Smallest request body."""
    max_prompt: BytesOrZero | None = None
    """Largest request body."""

    @field_validator("model", "path", "key")
    @classmethod
    def _not_empty(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns or not all(patterns):
            raise ValueError("an empty pattern or list matches nothing; leave the key out")
        return patterns

    @field_validator("header")
    @classmethod
    def _lower(cls, header: dict[str, str]) -> dict[str, str]:
        for name in header:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise ValueError(f"{name!r} is not a header name")
        return {name.lower(): pattern for name, pattern in header.items()}

    @field_validator("max_prompt")
    @classmethod
    def _ordered(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and most < (info.data.get("min_prompt") or 0):
            raise ValueError("is smaller than min_prompt: nothing would match")
        return most


class Candidate(Section):
    """One thing to try: what is left out stays as asked (model) or is any of them (endpoint)."""

    model: Annotated[str, Field(min_length=1)] | None = None
    endpoint: Name | None = None
    keys: Name | None = None
    """One of the endpoint's key_groups; without it, the endpoint's own key or keys."""


Commit = Literal["late", "early"]


class RouteRule(Section):
    """What to do with the requests that match; the first matching route wins."""

    name: Name
    """What headers, metrics and logs call it."""
    match: Match = Match()
    """Which requests; without it, all."""
    candidates: Annotated[tuple[Candidate, ...], SILENT_IF_EMPTY] = ()
    """What to try, the preferred first; without it: the model as asked, the endpoints in order.
    One without an endpoint stands for that model on each endpoint, the nearest first."""
    first_content_target: Seconds | None = None
    """Take the most preferred candidate that is expected to show its first visible token within
    this; when none is, the fastest. Without it: the candidates in their order."""
    confidence: Percentile = 0.9
    """How sure that expectation has to be."""
    params: Params = Params()
    """Request fields to set."""
    timeouts: Timeouts | None = None
    """Deadlines that differ from the top level's."""
    stream: StreamSettings | None = None
    """Stream settings that differ from the top level's."""
    attempts: Attempts | None = None
    """Retries and breakers that differ from the top level's."""
    admission: Admission | None = None
    """Admission that differs from the top level's."""
    hedge: HedgeOrOff | None = None
    """Hedging that differs from the top level's. off: none."""
    commit: Commit | None = None
    """When the status is sent; without it the top level's."""
    share: Flag = False
    """Identical requests of one key that run at the same time get one upstream answer."""
    on_disconnect: Leaving = OnDisconnect("cancel")
    """When a client leaves its stream. cancel: the API is told at once. drain: 30s: it is read on
    for so long, to know what it cost. keep: 60s: it is read to its end, and can be fetched for so
    long after it by GET /v1/streams/ID."""
    memory: Memory | None = None
    """Remember what conversations said, and tell the model. Without it nothing is kept."""
    cache: Cache | None = None
    """Answer the same request of the same caller again from a store."""
    responses: Responses | None = None
    """Speak the Responses API on /v1/responses. Without it that path is passed through."""
    websocket: Flag = False
    """Allow WebSockets: many chats on GET /v1/chat/completions, the Responses API's on
    GET /v1/responses (with `responses`), GLM-Realtime on GET /api/paas/v4/realtime."""

    @field_validator("candidates")
    @classmethod
    def _some(cls, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        if not candidates:
            raise ValueError("the list is empty; name at least one, or leave the key out")
        return candidates
