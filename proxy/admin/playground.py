"""A prompt sent from the operator's page: through this proxy, or straight to an endpoint.

What comes back is told event by event, each with the seconds since the request was sent. Nothing
is stored, and the key of an endpoint that is asked directly is masked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple

import aiohttp
import orjson
from aiohttp import web
from aiohttp_sse import EventSourceResponse
from pydantic import Field, StringConstraints

from proxy.admin.answers import Order, Refused, order, refusing
from proxy.config import Secret
from proxy.core.wire.answers import error_message, masked
from proxy.core.wire.dialect import count_of, object_of, parse, text_of
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import Decoder
from proxy.errors import EventTooLarge

_AT_ONCE: Final = 4
"""Prompts under way; a page sends two for one press of the button."""
_TOTAL: Final = 180.0
"""Seconds for one answer."""
_LONGEST_ERROR: Final = 64 * 1024
_SHOWN: Final = ("server-timing", "x-request-id", "x-log-id")
"""Headers of an answer that the page shows, besides `x-glm-proxy-*`."""


class Way(NamedTuple):
    """Where a prompt is sent."""

    url: str
    """Of chat completions in GLM's dialect."""
    key: Secret | None = None
    """What is sent where the page gives no key."""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Ways:
    """`proxied` is this proxy's own data listener; `direct` the endpoints by name."""

    proxied: Way
    direct: Mapping[str, Way] = field(default_factory=dict)


_Short = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class _Order(Order):
    """The body of a request."""

    way: Literal["proxied", "direct"]
    model: _Short
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
    endpoint: _Short | None = None
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    thinking: Literal["enabled", "disabled"] | None = None
    key: Annotated[str, StringConstraints(max_length=4096, pattern=r"^[!-~]*$")] | None = None

    def body(self) -> bytes:
        """The chat request."""
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.thinking is not None:
            asked["thinking"] = {"type": self.thinking}
        return orjson.dumps(asked)


class Playground:
    """Sends prompts; `proxy.admin.rules` says for whom."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._running = 0

    def use(self, ways: Ways) -> None:
        """From now on these; what is under way goes on."""
        self._ways = ways

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.post("/admin/playground", refusing(self.send))]

    async def send(self, request: web.Request) -> web.StreamResponse:
        """One prompt; the answer as events, or an error as JSON."""
        asked = await order(request, _Order)
        way = self._way(asked)
        if self._running >= _AT_ONCE:
            text = "as many prompts as may be are under way; wait for one"
            raise Refused(429, "too_many", text)
        self._running += 1
        try:
            return await _stream(request, asked, way)
        finally:
            self._running -= 1

    def _way(self, order: _Order) -> Way:
        if order.way == "proxied":
            return self._ways.proxied
        direct = self._ways.direct
        name = order.endpoint or next(iter(direct), "")
        if name not in direct:
            known = ", ".join(direct)
            raise Refused(400, "bad_request", f"endpoint: there is no {name!r}; known: {known}")
        return direct[name]


async def _stream(request: web.Request, order: _Order, way: Way) -> web.StreamResponse:
    """Ask, and tell what comes; the upstream is left as soon as the page is."""
    own = way.key.reveal() if way.key is not None else None
    key = order.key or own
    response = EventSourceResponse(allow_all_methods=True)
    await response.prepare(request)
    async with response:
        telling = _Telling(response, own)
        try:
            async with asyncio.timeout(_TOTAL), _asked(order, way, key) as answer:
                await telling.head(answer)
                if answer.status == 200 and answer.content_type == "text/event-stream":
                    await telling.events(answer)
                else:
                    await telling.refusal(answer.status, await answer.content.read(_LONGEST_ERROR))
        except TimeoutError:
            await telling.error(None, "timeout", f"no whole answer within {_TOTAL:g} s")
        except aiohttp.ClientError as error:
            await telling.error(None, "connection", f"{type(error).__name__}: {error}")
        except EventTooLarge as error:
            await telling.error(None, "malformed", error.message)
    return response


@asynccontextmanager
async def _asked(order: _Order, way: Way, key: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
    """A connection of its own, as a program without a proxy would have it."""
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    connector = aiohttp.TCPConnector(ssl=way.tls or True, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=True) as session,
        session.post(way.url, data=order.body(), headers=headers, allow_redirects=False) as answer,
    ):
        yield answer


class _Telling:
    """An answer, told to the page."""

    def __init__(self, response: EventSourceResponse, secret: str | None) -> None:
        """`secret`: the proxy's own key, which nothing may tell."""
        self._response = response
        self._secret = secret
        self._begun = time.monotonic()
        self._first_token: float | None = None
        self._first_content: float | None = None
        self._finish: str | None = None
        self._usage: dict[str, int] | None = None
        self._events = 0
        self._ended = self._failed = False

    async def head(self, answer: aiohttp.ClientResponse) -> None:
        # Any byte may stand in a header (RFC 9110 §5.5), but not in JSON.
        headers = {
            name: value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for name, value in ((one.lower(), value) for one, value in answer.headers.items())
            if name in _SHOWN or name.startswith("x-glm-proxy-")
        }
        await self._tell("head", status=answer.status, headers=headers)

    async def events(self, answer: aiohttp.ClientResponse) -> None:
        decoder = Decoder()
        async for chunk in answer.content.iter_any():
            for event in decoder.feed(chunk):
                if event.data:
                    await self._event(event.data)
        if self._failed:
            return
        if not self._ended:
            await self.error(None, "cut", "the stream ended before its end event")
            return
        await self._tell(
            "done",
            finish_reason=self._finish,
            usage=self._usage,
            ttft_s=self._first_token,
            first_content_s=self._first_content,
            events=self._events,
        )

    async def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._ended = True
            return
        self._events += 1
        value = parse(data)
        if value.get("error"):
            await self.refusal(None, data)
            return
        if isinstance(value.get("usage"), dict):
            counts = ((name, count_of(one)) for name, one in object_of(value["usage"]).items())
            self._usage = {name: count for name, count in counts if count is not None}
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            await self._choice(object_of(choice))

    async def _choice(self, choice: dict[str, object]) -> None:
        self._finish = text_of(choice.get("finish_reason")) or self._finish
        delta = object_of(choice.get("delta"))
        for kind, name in (("reasoning", "reasoning_content"), ("content", "content")):
            text = delta.get(name)
            if isinstance(text, str) and text:
                self._mark(kind)
                await self._tell("delta", kind=kind, text=text)

    def _mark(self, kind: str) -> None:
        now = self._now()
        if self._first_token is None:
            self._first_token = now
        if kind == "content" and self._first_content is None:
            self._first_content = now

    async def refusal(self, status: int | None, body: bytes) -> None:
        """An error of the upstream's, or of the proxy's."""
        code = GLM.error_code(body) or "upstream_failed"
        message = error_message(body) or f"answered with status {status}"
        await self.error(status, code, message)

    async def error(self, status: int | None, code: str, message: str) -> None:
        """What comes after the first, such as the stream's breaking off, follows from it."""
        if self._failed:
            return
        self._failed = True
        await self._tell("error", status=status, code=code, message=message)

    async def _tell(self, event: str, **fields: object) -> None:
        data = orjson.dumps({"t_s": self._now(), **fields})
        if self._secret:
            data = masked(data, self._secret)
        await self._response.send(data.decode(), event=event)

    def _now(self) -> float:
        return round(time.monotonic() - self._begun, 6)
