"""`DELETE /admin/memory/KEY`: forget all that was remembered of a virtual key's callers.

Any id of a key will do, one that was revoked or is unknown here too: nobody's memories must stay
because their key is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.admin import audit
from proxy.admin.answers import Refused, as_json, refusing
from proxy.core.policy.access import is_id
from proxy.errors import MemoryUnavailable
from proxy.observe.app_log import LOGGER
from proxy.state.home import Entry, Home, StateError

log = logging.getLogger(LOGGER)


def routes(
    home: Home, forget: Callable[[str], Awaitable[int]], *, wall: Callable[[], float]
) -> list[web.AbstractRouteDef]:
    """`forget` deletes what is a key's, tells how much there was, and raises MemoryUnavailable;
    `wall` is unix seconds."""

    async def one(request: web.Request) -> web.Response:
        key_id = request.match_info["id"]
        if not is_id(key_id):
            raise Refused(404, "not_found", "this is no id of a key; see GET /admin/keys", "id")
        try:
            deleted = await forget(key_id)
        except MemoryUnavailable as error:
            raise Refused(503, error.code, error.message) from None
        entry = Entry(wall(), audit.ACTOR, "memory.forget", key_id)
        audit.tell(entry)
        try:
            await home.note(entry)
        except StateError as error:  # it is done, whether or not that can be written down
            log.warning("the forgetting of %s is not in the audit: %s", key_id, error)
        return as_json({"id": key_id, "deleted": deleted})

    return [web.delete("/admin/memory/{id}", refusing(one))]
