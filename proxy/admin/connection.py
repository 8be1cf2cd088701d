"""What is not HTTP on the operator's listener: refused without quoting it, to nobody's log.

aiohttp would answer with the line that it could not read, and write it to the log as an error with
a traceback: it may hold a token, and anybody could fill the log.
"""

from __future__ import annotations

from aiohttp import web

from proxy.admin.guard import HEADERS

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
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

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
