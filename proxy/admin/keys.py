"""`/admin/keys`: the virtual keys that this proxy gave out; make, revoke and rotate them.

    GET     /admin/keys             all of them, without anything of their tokens
    POST    /admin/keys             {"name", "routes", "models", "expires_in": "30d", "limits"}
    DELETE  /admin/keys/ID          revoke it: from the next request on
    POST    /admin/keys/ID/rotate   {"overlap": "24h"}: a new token; the one before ends then

A token is in one answer, the one that makes it, and is kept nowhere. What is kept of it (a salt
and an HMAC) is in no answer at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from proxy.admin import audit
from proxy.admin.answers import Order, Refused, as_json, order, refusing
from proxy.config import Allowance
from proxy.config.units import Span, SpanOrZero
from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES, Made, VirtualKey
from proxy.state.home import Entry, Home

_PATH: Final = "/admin/keys"
OVERLAP: Final = 24 * 3600.0
"""Seconds that the token before is still good for, where nothing else is said."""


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

    overlap: SpanOrZero = OVERLAP


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
        now = self._wall()
        keys = sorted(self._keys().values(), key=lambda key: (key.created, key.id))
        return as_json({"keys": [key.told(now) for key in keys]})

    async def create(self, request: web.Request) -> web.Response:
        wanted, now = await order(request, _New), self._wall()
        expires = None if wanted.expires_in is None else now + wanted.expires_in
        try:
            made = access.make(
                wanted.name,
                secrets.token_bytes(RANDOM_BYTES),
                now,
                routes=wanted.routes,
                models=wanted.models,
                expires=expires,
                allowance=wanted.limits,
            )
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        await self._save(made.key, "key.create", now)
        return self._told(made, now, 201)

    async def revoke(self, request: web.Request) -> web.Response:
        now = self._wall()
        key = access.revoked(self._one(request), now)
        await self._save(key, "key.revoke", now)
        return as_json(key.told(now))

    async def rotate(self, request: web.Request) -> web.Response:
        wanted, now = await order(request, _Rotate), self._wall()
        random = secrets.token_bytes(RANDOM_BYTES)
        try:
            made = access.rotated(self._one(request), random, now, wanted.overlap)
        except ValueError as error:
            raise Refused(409, "not_active", str(error)) from None
        await self._save(made.key, "key.rotate", now)
        return self._told(made, now, 200)

    def _told(self, made: Made, now: float, status: int) -> web.Response:
        return as_json({**made.key.told(now), "token": made.token}, status)

    async def _save(self, key: VirtualKey, action: str, now: float) -> None:
        entry = Entry(now, audit.ACTOR, action, key.label)
        await self._home.save_key(key, entry)
        audit.tell(entry)

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
