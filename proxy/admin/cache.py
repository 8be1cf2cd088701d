"""`DELETE /admin/cache`: no kept answer is told any more, whoever's it was."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.admin import audit
from proxy.admin.answers import Refused, as_json, refusing
from proxy.observe.app_log import LOGGER
from proxy.state.home import Entry, Home, StateError

log = logging.getLogger(LOGGER)


def routes(
    home: Home, clear: Callable[[], Awaitable[int]], *, wall: Callable[[], float]
) -> list[web.AbstractRouteDef]:
    """`clear` deletes them all, tells how many there were, and raises StateError; `wall` is unix
    seconds."""

    async def everything(request: web.Request) -> web.Response:
        try:
            deleted = await clear()
        except StateError as error:
            raise Refused(503, "store_unavailable", str(error)) from None
        entry = Entry(wall(), audit.ACTOR, "cache.clear", str(deleted))
        audit.tell(entry)
        try:
            await home.note(entry)
        except StateError as error:  # it is done, whether or not that can be written down
            log.warning("the clearing of the cache is not in the audit: %s", error)
        return as_json({"deleted": deleted})

    return [web.delete("/admin/cache", refusing(everything))]
