"""`/admin/models`: what each model name is served by; switch it while the proxy runs, and back.

    GET     /admin/models           the switches in effect, and the routes
    PUT     /admin/models/MODEL     {"to": NAME, "for": "2h" | null}: serve MODEL by NAME
    DELETE  /admin/models/MODEL     as the settings say again
    DELETE  /admin/models           all of them

Nothing but names of models and a duration can be set here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web
from pydantic import Field

from proxy.admin import audit
from proxy.admin.answers import Order, Refused, as_json, order, refusing
from proxy.config.units import Span
from proxy.core.policy.switches import RESET, Change, is_name, wrong_name
from proxy.state.home import Entry, Home

_PATH: Final = "/admin/models"


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
        knows: Callable[[str], bool],
        wall: Callable[[], float],
    ) -> None:
        """`shown` is the answer to GET, `knows` says whether a model has a record, `wall` is Unix
        seconds."""
        self._home = home
        self._shown = shown
        self._knows = knows
        self._wall = wall

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get(_PATH, self.show),
            web.put(_PATH + "/{model}", refusing(self.set)),
            web.delete(_PATH + "/{model}", refusing(self.reset)),
            web.delete(_PATH, refusing(self.reset_all)),
        ]
