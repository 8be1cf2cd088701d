"""`/admin/reload`: read the settings again, and use them.

    POST    /admin/reload       {"reloaded": true, "digest": …}, or 422 with every problem

Nothing of the request is looked at: what is read, and from where, was said at the start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.admin.answers import as_json
from proxy.admin.audit import ACTOR
from proxy.config import CannotReload, Problem


def routes(reread: Callable[[str], Awaitable[str]]) -> list[web.AbstractRouteDef]:
    """`reread` does it for whom it is told, and tells the digest of what is in use then; it raises
    CannotReload."""

    async def post(request: web.Request) -> web.Response:
        try:
            digest = await reread(ACTOR)
        except CannotReload as error:
            return _refused(error)
        return as_json({"reloaded": True, "digest": digest})

    return [web.post("/admin/reload", post)]


def _refused(error: CannotReload) -> web.Response:
    count = len(error.problems)
    told = {
        "code": "invalid_settings",
        "message": f"{count} problem{'s' if count != 1 else ''}; the settings before stay in use",
        "problems": [_told(one) for one in error.problems],
    }
    return as_json({"error": told}, 422)


def _told(problem: Problem) -> dict[str, object]:
    return {"path": problem.where, "message": problem.text, "line": problem.line}
