"""`/admin/keys`: the virtual keys that this proxy gave out; make, revoke and rotate them.

    GET     /admin/keys             all of them, without anything of their tokens
    POST    /admin/keys             {"name", "routes", "models", "expires_in": "30d", "limits"}
    DELETE  /admin/keys/ID          revoke it: from the next request on
    POST    /admin/keys/ID/rotate   {"overlap": "24h"}: a new token; the one before ends then

A token is in one answer, the one that makes it, and is kept nowhere. What is kept of it (a salt
and an HMAC) is in no answer at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from proxy.admin import audit
from proxy.admin.answers import Order, Refused, as_json, order, refusing
from proxy.config import Allowance
from proxy.config.units import Span, SpanOrZero
from proxy.core.policy.access import Made, VirtualKey
from proxy.state import issuing
from proxy.state.home import Entry, Home

_PATH: Final = "/admin/keys"


class _New(Order):
    """The body of a POST."""

    name: str
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    expires_in: Span | None = None
    """Seconds; None: until it is revoked."""
    limits: Allowance = Allowance()


class _Rotate(Order):
    """The body of a POST to `rotate`."""

    overlap: SpanOrZero = issuing.OVERLAP


class Keys:
    """One method per path and method."""

    def __init__(
        self,
        home: Home,
        known: Callable[[], Mapping[str, VirtualKey] | None],
        *,
        wall: Callable[[], float],
    ) -> None:
        """`known`: the keys there are, by id; None: nobody can tell. `wall` is unix seconds."""
        self._home = home
        self._known = known
        self._wall = wall

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get(_PATH, refusing(self.several)),
            web.post(_PATH, refusing(self.create)),
            web.delete(_PATH + "/{id}", refusing(self.revoke)),
            web.post(_PATH + "/{id}/rotate", refusing(self.rotate)),
        ]

    async def several(self, request: web.Request) -> web.Response:
        known, now = self._keys(), self._wall()
        # There may be thousands, and the streams on this loop go on meanwhile.
        return await asyncio.to_thread(_listed, known, now)

    async def create(self, request: web.Request) -> web.Response:
        wanted, now = await order(request, _New), self._wall()
        try:
            made, entry = await issuing.create(
                self._home,
                wanted.name,
                routes=wanted.routes,
                models=wanted.models,
                lasting=wanted.expires_in,
                allowance=wanted.limits,
                by=audit.ACTOR,
                now=now,
            )
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        return _told(made, entry, 201)

    async def revoke(self, request: web.Request) -> web.Response:
        now = self._wall()
        key, entry = await issuing.revoke(self._home, self._one(request), by=audit.ACTOR, now=now)
        audit.tell(entry)
        return as_json(key.told(now))

    async def rotate(self, request: web.Request) -> web.Response:
        wanted, now = await order(request, _Rotate), self._wall()
        key = self._one(request)
        try:
            made, entry = await issuing.rotate(
                self._home, key, wanted.overlap, by=audit.ACTOR, now=now
            )
        except ValueError as error:
            raise Refused(409, "not_active", str(error)) from None
        return _told(made, entry, 200)

    def _one(self, request: web.Request) -> VirtualKey:
        key = self._keys().get(request.match_info["id"])
        if key is None:
            raise Refused(404, "not_found", "there is no key of this id; see GET /admin/keys", "id")
        return key

    def _keys(self) -> Mapping[str, VirtualKey]:
        known = self._known()
        if known is None:
            raise Refused(503, "state_unavailable", "the keys are not known at the moment")
        return known


def _told(made: Made, entry: Entry, status: int) -> web.Response:
    """The token, this one time."""
    audit.tell(entry)
    return as_json({**made.key.told(entry.at), "token": made.token}, status)


def _listed(known: Mapping[str, VirtualKey], now: float) -> web.Response:
    return as_json({"keys": [key.told(now) for key in issuing.in_order(known)]})
