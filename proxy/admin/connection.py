"""Connections to the operator's listener: what is not HTTP is refused, and who says nothing leaves.

What is not HTTP is answered without quoting it, and is in nobody's log: aiohttp would answer
with the line that it could not read, and write it to the log as an error with a traceback: it may
hold a token, and anybody could fill the log. Nor would it end a request that is half sent before
an hour, and every connection takes a file from the callers of the proxy.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from proxy.admin.guard import HEADERS

IDLE: Final = 30.0
"""Seconds without a whole request, from the connection or the answer before it, until it ends."""
MOST: Final = 512
"""Connections. For a further one the oldest of those that wait for no answer is closed, so that
who only connects keeps nobody out."""
_WHAT = "the request is not valid HTTP\n"


class Runner(web.AppRunner):
    """Runs the application; its connections are those below."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
            keepalive_timeout=IDLE,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None
        others = self._manager.connections
        if len(others) > MOST:
            next(one for one in others if not one._request_in_progress).force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=status, text=f"{status}: {_WHAT}", headers=HEADERS)
        response.force_close()
        return response
