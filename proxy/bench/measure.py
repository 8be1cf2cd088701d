"""One request, timed as a caller sees it. Never raises: a failure is a sample too."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from proxy.bench.plan import Ask
from proxy.core.flow.timeline import Timeline
from proxy.core.record import Usage
from proxy.core.wire.dialect import Dialect, Kind, newer_usage, object_of, parse, text_of
from proxy.core.wire.sse import Decoder
from proxy.errors import EventTooLarge

COMPLETE = "complete"
HOPELESS = frozenset(("unreachable", "not_trusted", "key_refused", "not_found"))
"""Outcomes that the next request would have too, when none has succeeded before."""
_LONGEST_DETAIL = 300
_TOKENS = (Kind.REASONING, Kind.CONTENT, Kind.TOOL)
_VISIBLE = (Kind.CONTENT, Kind.TOOL)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request. Times in seconds since it was begun; `None` is "not reached"."""

    way: str
    number: int
    outcome: str
    """`complete` only when the dialect's own end event came."""
    detail: str | None
    """One line on what went wrong."""
    status: int | None
    model: str | None
    """The model that answered, as the answer says."""
    headers: float | None
    ttfb: float | None
    first_event: float | None
    ttft: float | None
    """First model token of any kind, reasoning too."""
    first_content: float | None
    """First visible token or tool-call delta."""
    last_byte: float | None
    gap_mean: float | None
    gap_max: float | None
    events: int
    chunks: int
    """HTTP chunks; 0 when the answer was not sent in chunks."""
    output_tokens: int | None
    visible: int = 0
    """Events with visible text or a tool call."""
    scene: str = ""
    started: float = 0.0
    """When it was begun, on the run's clock."""
    attempts: int | None = None
    """Requests the proxy had made for it when its answer began."""

    @property
    def complete(self) -> bool:
        return self.outcome == COMPLETE

    @property
    def events_per_chunk(self) -> float | None:
        return self.events / self.chunks if self.chunks else None

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None without the upstream's own count."""
        if self.output_tokens is None or self.ttft is None or self.last_byte is None:
            return None
        took = self.last_byte - self.ttft
        return (self.output_tokens - 1) / took if took > 0 and self.output_tokens > 1 else None


class _Failed(Exception):
    """How a request ended when not well: the outcome, and one line on it."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


async def measure(session: aiohttp.ClientSession, ask: Ask, clock: Clock) -> Sample:
    """Asks once and reads to the end."""
    reading = _Reading(ask.dialect, clock())
    outcome, detail = COMPLETE, None
    try:
        async with asyncio.timeout(ask.timeout):
            await _ask(session, ask, clock, reading)
    except _Failed as failed:
        outcome, detail = failed.outcome, str(failed)
    except aiohttp.ConnectionTimeoutError:  # a TimeoutError too
        outcome, detail = "unreachable", f"{ask.url} gives no connection in time"
    except TimeoutError:
        outcome, detail = "timeout", f"no whole answer within {ask.timeout:g} s"
    except EventTooLarge as error:
        outcome, detail = "malformed", error.message
    except aiohttp.ClientError as error:
        outcome, detail = _connection_failure(error, ask.url, reading)
    return reading.sample(ask, outcome, detail)


async def _ask(session: aiohttp.ClientSession, ask: Ask, clock: Clock, reading: _Reading) -> None:
    url = ask.url
    async with session.post(
        url, data=ask.body, headers=ask.headers, allow_redirects=False
    ) as response:
        reading.timeline.headers = clock()
        reading.status = response.status
        reading.model = response.headers.get("x-glm-proxy-model")
        reading.attempts = _number(response.headers.get("x-glm-proxy-attempts"))
        if response.status != 200:
            raise _refusal(response.status, await response.content.read(65536), ask)
        if response.content_type != "text/event-stream":
            raise _Failed("not_a_stream", f"{url} answered with {response.content_type}")
        async for chunk, is_end in response.content.iter_chunks():
            reading.chunks += is_end
            if chunk:
                reading.take(chunk, clock())
    reading.check_end()


class _Reading:
    """What is known of an answer so far."""

    def __init__(self, dialect: Dialect, begun: float) -> None:
        self.timeline = Timeline(begun)
        self.status: int | None = None
        self.model: str | None = None
        self.chunks = 0
        self.visible = 0
        self.attempts: int | None = None
        self._dialect = dialect
        self._decoder = Decoder()
        self._usage: Usage | None = None
        self._ended = False
        self._error: str | None = None

    def take(self, chunk: bytes, now: float) -> None:
        """Bytes of the body, as they came."""
        marks = self.timeline
        marks.finished = now
        if marks.first_byte is None:
            marks.first_byte = now
        events = [event for event in self._decoder.feed(chunk) if event.data]
        if not events:
            return
        marks.burst(len(events), now)
        for event in events:
            self._read(event.data, event.name, now)

    def _read(self, data: bytes, name: bytes, now: float) -> None:
        meaning = self._dialect.read(data, name)
        marks = self.timeline
        if self.model is None:
            self.model = self._dialect.model(data)
        if marks.first_token is None and meaning.kind in _TOKENS:
            marks.first_token = now
        if meaning.kind in _VISIBLE:
            self.visible += 1
            if marks.first_content is None:
                marks.first_content = now
        if meaning.usage is not None:
            self._usage = newer_usage(self._usage, meaning.usage)
        if meaning.kind is Kind.ERROR:
            self._error = _said(data) or "an error event without a message"
        if meaning.kind is Kind.END:
            self._ended = True

    def check_end(self) -> None:
        """The body has ended. Raises _Failed when the answer is not whole."""
        if self._error is not None:
            raise _Failed("error_event", _one_line(f"error in the stream: {self._error}"))
        if not self._ended:
            raise _Failed(
                "cut", f"the stream ended after {self.timeline.events} events, unfinished"
            )

    def sample(self, ask: Ask, outcome: str, detail: str | None) -> Sample:
        t = self.timeline
        return Sample(
            way=ask.way,
            number=ask.number,
            scene=ask.scene,
            started=t.received,
            attempts=self.attempts,
            visible=self.visible,
            outcome=outcome,
            detail=detail,
            status=self.status,
            model=self.model,
            headers=self._since(t.headers),
            ttfb=self._since(t.first_byte),
            first_event=self._since(t.first_event),
            ttft=self._since(t.first_token),
            first_content=self._since(t.first_content),
            last_byte=self._since(t.finished),
            gap_mean=t.gap_sum / t.gaps if t.gaps else None,
            gap_max=t.gap_max if t.gaps else None,
            events=t.events,
            chunks=self.chunks,
            output_tokens=self._usage.output_tokens if self._usage else None,
        )

    def _since(self, mark: float | None) -> float | None:
        return None if mark is None else mark - self.timeline.received


# --- failures, each in one line -------------------------------------------------------------------


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _refusal(status: int, body: bytes, ask: Ask) -> _Failed:
    url, code = ask.url, ask.dialect.error_code(body)
    said = ", ".join(x for x in (code and f"code {code}", _said(body)) if x)
    told = f"status {status}" + (f" ({_one_line(said)})" if said else "")
    if status in (401, 403):
        advice = (
            "name another with --api-key env:NAME"
            if {"authorization", "x-api-key"} & ask.headers.keys()
            else "none was given: --api-key env:NAME"
        )
        return _Failed("key_refused", f"{url} refuses the key, {told}; {advice}")
    if status == 404:
        advice = "is the URL the base URL an SDK is given, such as https://api.z.ai/api/paas/v4?"
        return _Failed("not_found", f"{url} was not found, {told}; {advice}")
    return _Failed(f"status_{status}", f"{url} answered with {told}")


def _connection_failure(error: aiohttp.ClientError, url: str, reading: _Reading) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        reason = getattr(error, "certificate_error", error)
        why = getattr(reason, "verify_message", "") or str(reason)
        advice = "name its authority with --ca-file"
        return "not_trusted", _one_line(f"the certificate of {url} is not trusted: {why}; {advice}")
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.strerror or str(error.os_error)
        return "unreachable", _one_line(f"{url} cannot be reached: {why}")
    if reading.timeline.headers is None:
        return "no_answer", _one_line(f"{url} closed the connection without an answer: {error}")
    return "cut", _one_line(f"the connection broke after {reading.timeline.events} events: {error}")


def _said(body: bytes) -> str | None:
    """The message in an error body or error event."""
    value = parse(body)
    error = value.get("error")
    return text_of(object_of(error).get("message")) or text_of(error) or text_of(value.get("msg"))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_DETAIL]
