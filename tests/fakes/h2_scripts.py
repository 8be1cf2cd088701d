"""What an `h2_peer.Peer` answers: scripts, run once for each request."""

from __future__ import annotations

import asyncio

from tests.fakes.h2_peer import Request, answer_ok


async def silent(request: Request) -> None:
    """A model that thinks: no answer at all."""


async def flowing(request: Request) -> None:
    """An endless stream of events."""
    request.head()
    while not request.gone:
        await request.data(b"data: token\n\n" * 20)
        await asyncio.sleep(0)


async def echo_or_silence(request: Request) -> None:
    """GET gets no answer, POST its body back."""
    if request.headers[0] == (b":method", b"POST"):
        await answer_ok(request)
