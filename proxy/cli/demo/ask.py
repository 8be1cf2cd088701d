"""One streamed chat with the `openai` SDK, and the moments at which its parts came."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli.demo.children import Child, NotRunning

if TYPE_CHECKING:
    import openai

OnToken = Callable[[str, bool], None]
"""Text of a token, and whether it is visible (or else thinking)."""

_APART = 0.1
"""Seconds between two questions that are asked together, so that none waits for another's start."""


@dataclass(frozen=True, slots=True)
class Way:
    """One road to the model."""

    name: str
    about: str
    base_url: str
    """As an SDK is given it."""
    ca_file: Path | None = None
    proxy: Child | None = None
    """Whose access log tells of this way; None: past the proxy."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the same on every way."""

    model: str
    prompt: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request."""


@dataclass(slots=True)
class Sample:
    """One answer; times in seconds since the request left the SDK, None: did not happen."""

    headers: Mapping[str, str] = field(default_factory=dict)
    connected: float | None = None
    headers_at: float | None = None
    first_event: float | None = None
    first_token: float | None = None
    first_content: float | None = None
    last_byte: float | None = None
    events: int = 0
    """As the SDK hands them out; it keeps the end event, `[DONE]`, to itself."""


async def ask_all(
    way: Way, question: Question, runs: int, *, together: bool, on_token: OnToken
) -> list[Sample]:
    """`runs` answers, together or one by one; the tokens of the first are told.

    Raises NotRunning.
    """
    tellers: list[OnToken] = [on_token, *([_ignore] * (runs - 1))]
    if together:
        return await asyncio.gather(
            *(_ask_later(i * _APART, way, question, tell) for i, tell in enumerate(tellers))
        )
    return [await ask(way, question, teller) for teller in tellers]


async def _ask_later(delay: float, way: Way, question: Question, on_token: OnToken) -> Sample:
    await asyncio.sleep(delay)
    return await ask(way, question, on_token)


async def warm_up(ways: Sequence[Way], question: Question) -> None:
    """One short answer of each way, so that no first run pays for what the SDK loads late."""
    short = {**question.fields, "max_tokens": 1, "thinking": {"type": "disabled"}}
    asked = Question(question.model, question.prompt, short)
    await asyncio.gather(*(ask(way, asked, _ignore) for way in ways))
    await asyncio.gather(*(way.proxy.records(1) for way in ways if way.proxy is not None))


async def ask(way: Way, question: Question, on_token: OnToken) -> Sample:
    """One streamed answer, on a connection of its own. Raises NotRunning."""
    import openai

    sample, clock = Sample(), _Clock()
    # Plain HTTP needs no authorities, and reading the system's takes long.
    tls = ssl.create_default_context(cafile=way.ca_file) if way.ca_file else False
    http = openai.DefaultAsyncHttpxClient(
        verify=tls, trust_env=False, event_hooks={"request": [clock.sent]}
    )
    try:
        async with openai.AsyncOpenAI(
            base_url=way.base_url, api_key="demo.key", max_retries=0, http_client=http
        ) as client:
            await _ask(client, question, sample, clock, on_token)
    except openai.APIError as error:
        raise NotRunning(f"{way.name}: {error.__cause__ or error}") from None
    sample.connected = clock.connected
    return sample


async def _ask(
    client: openai.AsyncOpenAI, question: Question, sample: Sample, clock: _Clock, on_token: OnToken
) -> None:
    answer = await client.chat.completions.with_raw_response.create(
        model=question.model,
        messages=[{"role": "user", "content": question.prompt}],
        stream=True,
        extra_body=dict(question.fields),
    )
    sample.headers_at, sample.headers = clock.now(), answer.headers
    async for chunk in answer.parse():
        now = clock.now()
        sample.events += 1
        sample.first_event = sample.first_event or now
        for choice in chunk.choices:
            thought: str = getattr(choice.delta, "reasoning_content", None) or ""
            said = choice.delta.content
            if thought or said:
                sample.first_token = sample.first_token or now
                on_token(said or thought, bool(said))
            if said:
                sample.first_content = sample.first_content or now
    sample.last_byte = clock.now()


class _Clock:
    """Seconds since the SDK sent its request; hears of the connection from the HTTP client."""

    def __init__(self) -> None:
        self._sent = time.perf_counter()
        self._connecting = 0.0
        self.connected: float | None = None
        """How long it took to connect."""

    def now(self) -> float:
        return time.perf_counter() - self._sent

    async def sent(self, request: Any) -> None:
        self._sent = time.perf_counter()
        trace: Callable[[str, object], Awaitable[None]] = self._trace
        request.extensions["trace"] = trace

    async def _trace(self, event: str, details: object) -> None:
        if event == "connection.connect_tcp.started":
            self._connecting = self.now()
        elif event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.connected = self.now() - self._connecting


def _ignore(text: str, visible: bool) -> None:
    """Not told."""


def require_sdk() -> None:
    """Raises NotRunning without it; loading it takes long, and is for later."""
    if importlib.util.find_spec("openai") is None:
        raise NotRunning(
            "the demonstration asks with the Python package 'openai', which is not installed;"
            " `make setup` installs it, or: pip install openai"
        )


async def load_sdk() -> None:
    """In a thread, while other things start."""
    await asyncio.to_thread(importlib.import_module, "openai")
