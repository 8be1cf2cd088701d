"""Who may call each route of the operator's listener: the whole list. A route that is not on it is
not served, and an application that has one is not made.

public   anybody: they say nothing but whether the proxy is up
scrape   whoever reaches the listener: figures, without any text of callers
read     shows what the proxy does. On loopback whoever reaches the listener; on an address that
         other machines reach, who knows the token: as Bearer, or as the password of a browser's
         own question (Basic), so that the page can be opened
act      sends or changes something: the token as Bearer, which no browser adds by itself
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.admin.answers import refusal
from proxy.admin.guard import TokenCheck


class Rule(StrEnum):
    """See above."""

    PUBLIC = "public"
    SCRAPE = "scrape"
    READ = "read"
    ACT = "act"


RULES: Final[Mapping[tuple[str, str], Rule]] = MappingProxyType(
    {
        ("GET", "/livez"): Rule.PUBLIC,
        ("GET", "/readyz"): Rule.PUBLIC,
        ("GET", "/metrics"): Rule.SCRAPE,
        ("GET", "/"): Rule.READ,
        ("GET", "/page/{name}"): Rule.READ,
        ("GET", "/admin/status"): Rule.READ,
        ("GET", "/admin/live"): Rule.READ,
        ("GET", "/admin/exchanges"): Rule.READ,
        ("GET", "/admin/exchanges/{id}"): Rule.READ,
        ("GET", "/admin/models"): Rule.READ,
        ("GET", "/admin/keys"): Rule.READ,
        ("GET", "/admin/audit"): Rule.READ,
        ("POST", "/admin/playground"): Rule.ACT,
        ("PUT", "/admin/models/{model}"): Rule.ACT,
        ("DELETE", "/admin/models/{model}"): Rule.ACT,
        ("DELETE", "/admin/models"): Rule.ACT,
        ("POST", "/admin/keys"): Rule.ACT,
        ("DELETE", "/admin/keys/{id}"): Rule.ACT,
        ("POST", "/admin/keys/{id}/rotate"): Rule.ACT,
        ("DELETE", "/admin/memory/{id}"): Rule.ACT,
        ("DELETE", "/admin/cache"): Rule.ACT,
        ("POST", "/admin/reload"): Rule.ACT,
    }
)
"""By method and path as the route says it. HEAD is a GET without its body."""

_BASIC: Final = {"WWW-Authenticate": 'Basic realm="glm-proxy", charset="UTF-8"'}
_BEARER: Final = {"WWW-Authenticate": 'Bearer realm="glm-proxy"'}
"""With every 401 (RFC 9110 §11.6.1)."""


def rule_of(route: web.AbstractRoute) -> Rule:
    """Raises LookupError for a route without a rule."""
    path = "" if route.resource is None else route.resource.canonical
    method = "GET" if route.method == "HEAD" else route.method
    try:
        return RULES[method, path]
    except KeyError:
        raise LookupError(f"{route.method} {path} has no rule in proxy.admin.rules") from None


def require_rules(app: web.Application) -> None:
    """Raises LookupError if a route of the application has no rule."""
    for route in app.router.routes():
        rule_of(route)


def access_check(token: TokenCheck, *, anybody_reads: bool) -> Middleware:
    """Lets in by the rule of the matched route, and by nothing else of the request."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is not None:
            return await handler(request)  # 404 or 405: there is nothing behind it
        refused, challenge = None, _BEARER
        match rule_of(request.match_info.route):
            case Rule.PUBLIC | Rule.SCRAPE:
                pass
            case Rule.READ:
                if not anybody_reads:
                    refused, challenge = token.refusal(request, as_password=True), _BASIC
            case _:
                refused = token.refusal(request)
        if refused is None:
            return await handler(request)
        answer = refusal(*refused)
        if answer.status == 401:
            answer.headers.update(challenge)
        return answer

    return check
