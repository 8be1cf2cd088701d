"""`/admin/status`: the whole proxy at this moment, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from proxy.admin.answers import as_json


def routes(status: Callable[[], Mapping[str, object]]) -> list[web.AbstractRouteDef]:
    """For GET and HEAD. `status` is asked at each request."""

    async def answer(request: web.Request) -> web.Response:
        return as_json(status())

    return [web.get("/admin/status", answer)]
