"""`/admin/models`: what each model name is served by; switch it while the proxy runs, and back.

    GET     /admin/models           the switches in effect, and the routes
    PUT     /admin/models/MODEL     {"to": NAME, "for": "2h" | null}: MODEL is served by NAME
    DELETE  /admin/models/MODEL     as the settings say again
    DELETE  /admin/models           all of them

Nothing but names of models and a duration can be set here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web
from pydantic import Field

from proxy.admin import audit
from proxy.admin.answers import Order, Refused, as_json, order, refusing
from proxy.config.units import Span
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.switches import Switches, doubt
from proxy.state.home import Home
from proxy.state.switching import switch, undo

_PATH: Final = "/admin/models"
_ONE: Final = _PATH + "/{model:[^/]+}"
_HALF_ENCODED: Final = re.compile("%(?![0-9A-Fa-f]{2})")


class _Order(Order):
    """The body of a PUT."""

    to: str
    span: Span | None = Field(default=None, alias="for")
    """Seconds; None: until it is undone."""


class Models:
    """One method per path and method."""

    def __init__(
        self,
        home: Home,
        shown: Callable[[], Mapping[str, object]],
        *,
        switches: Callable[[], Switches],
        capabilities: Callable[[], Capabilities],
        wall: Callable[[], float],
    ) -> None:
        """`shown` is the answer to GET; `wall` is Unix seconds."""
        self._home = home
        self._shown = shown
        self._switches = switches
        self._capabilities = capabilities
        self._wall = wall

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get(_PATH, self.show),
            web.put(_ONE, refusing(self.set)),
            web.delete(_ONE, refusing(self.reset)),
            web.delete(_PATH, refusing(self.reset_all)),
        ]

    async def show(self, request: web.Request) -> web.Response:
        return as_json(self._shown())

    async def set(self, request: web.Request) -> web.Response:
        """The switch; `warning` where no record knows the model that is to serve."""
        said = await order(request, _Order)
        now, model = self._wall(), _model(request)
        try:
            made, entry = await switch(
                self._home, model, said.to, said.span, by=audit.ACTOR, now=now
            )
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        audit.tell(entry)
        warning = doubt(said.to, self._capabilities())
        return as_json(made.told() | ({} if warning is None else {"warning": warning}))

    async def reset(self, request: web.Request) -> web.Response:
        return await self._reset((_model(request),))

    async def reset_all(self, request: web.Request) -> web.Response:
        return await self._reset(None)

    async def _reset(self, models: tuple[str, ...] | None) -> web.Response:
        """How many there were."""
        known = self._switches().all()
        try:
            count, entry = await undo(
                self._home, models, known=known, by=audit.ACTOR, now=self._wall()
            )
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        audit.tell(entry)
        return as_json({"reset": count})


def _model(request: web.Request) -> str:
    """The last segment of the path, decoded (RFC 3986, section 2.1). Raises Refused.

    The web server's own decoding leaves what is none as it stands: two spellings of one name.
    """
    segment = request.raw_path.partition("?")[0].rpartition("/")[2]
    if _HALF_ENCODED.search(segment):
        raise Refused(400, "bad_request", "a % in a path begins two hexadecimal digits", "model")
    return unquote_to_bytes(segment).decode("ascii", "replace")
