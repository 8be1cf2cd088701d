"""One exchange as a caller meets it, timed with the caller's clock. Never raises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from tests.proof.plan import Leave, Shot
from tests.proof.reading import Reading

_PATIENCE = 60.0


@dataclass(slots=True)
class Seen:
    """What the client saw of one exchange. Times in seconds since it was begun."""

    shot: Shot
    outcome: str
    """`completed`, `cut` (a good status, no whole answer), `refused` (an error status), `left`
    (the client did), `nothing` (no answer at all)."""
    status: int | None
    head: float | None
    duration: float
    reading: Reading
    begun: float
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def ttfb(self) -> float | None:
        return self._since(self.reading.first_byte)

    @property
    def ttft(self) -> float | None:
        return self._since(self.reading.first_token)

    @property
    def first_content(self) -> float | None:
        return self._since(self.reading.first_content)

    def _since(self, mark: float | None) -> float | None:
        return None if mark is None else mark - self.begun


class _Left(Exception):
    """The client has seen enough."""


async def ask(session: aiohttp.ClientSession, url: str, shot: Shot) -> Seen:
    """Sends one shot and reads to its end, or until the client leaves."""
    seen = Seen(shot, "nothing", None, None, 0.0, Reading(), time.perf_counter())
    with suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
        try:
            async with asyncio.timeout(_patience(shot.leave)):
                await _read(session, url, shot, seen)
        except _Left:
            seen.outcome = "left"
        except TimeoutError:
            seen.outcome = "left" if shot.leave and shot.leave.after else "nothing"
            raise
        except aiohttp.ClientError:
            seen.outcome = "nothing" if seen.status is None else "cut"
            raise
    seen.duration = time.perf_counter() - seen.begun
    return seen


async def _read(session: aiohttp.ClientSession, url: str, shot: Shot, seen: Seen) -> None:
    half = shot.leave is not None and shot.leave.stage == "reading"
    headers = {**shot.headers, "x-request-id": shot.id}
    body: bytes | AsyncIterator[bytes] | None = shot.body
    if shot.body is not None and half:
        headers["content-length"] = str(len(shot.body))
        body = _half(shot.body)
    async with session.request(shot.method, url + shot.path, data=body, headers=headers) as answer:
        seen.head = time.perf_counter() - seen.begun
        seen.status = answer.status
        seen.headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.content_type == "text/event-stream":
            await _read_stream(answer, shot.leave, seen.reading)
        else:
            whole = b"".join([part async for part in answer.content.iter_any()])
            seen.reading.whole(whole, time.perf_counter())
        seen.outcome = _outcome(seen, shot)


async def _read_stream(
    answer: aiohttp.ClientResponse, leave: Leave | None, reading: Reading
) -> None:
    async for data in answer.content.iter_any():
        reading.take(data, time.perf_counter())
        if leave is not None and leave.events and reading.events >= leave.events:
            answer.close()
            raise _Left


async def _half(body: bytes) -> AsyncIterator[bytes]:
    """Half of it, and then nothing until the client leaves."""
    yield body[: len(body) // 2]
    await asyncio.sleep(_PATIENCE)


def _patience(leave: Leave | None) -> float:
    return leave.after if leave is not None and leave.after else _PATIENCE


def _outcome(seen: Seen, shot: Shot) -> str:
    if seen.status is None or seen.status >= 400:
        return "refused"
    if not shot.chat:
        return "completed"
    return "completed" if seen.reading.ended and not seen.reading.failed else "cut"
