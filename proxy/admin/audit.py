"""`/admin/audit`: who changed what, the latest first. Values that are secret are never in it.

What is changed through this process is told in its own log too, one line each.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from proxy.admin.answers import as_json, limit, refusing
from proxy.observe.app_log import LOGGER
from proxy.state.home import Entry, Home

ACTOR: Final = "admin"
"""Who acts through the operator's listener."""
_MOST: Final = 1000
_USUAL: Final = 100

log = logging.getLogger(LOGGER)


def routes(home: Home) -> list[web.AbstractRouteDef]:
    """For GET and HEAD."""

    async def several(request: web.Request) -> web.Response:
        entries = await home.audit(limit(request, usual=_USUAL, most=_MOST))
        return as_json({"entries": [entry._asdict() for entry in entries]})

    return [web.get("/admin/audit", refusing(several))]


def tell(entry: Entry) -> None:
    """One line for what was done."""
    log.info("audit: %s %s %s", entry.actor, entry.action, entry.subject)
