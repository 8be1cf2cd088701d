"""Who may read the operator's listener from a browser, and who may act by it.

A page of another site must not be able to read it by pointing a name at its address (DNS
rebinding), so the `Host` of every request has to be an address, `localhost` or a configured name.
Nor may such a page use it through its visitor: a request that a browser says comes from elsewhere
is refused. What sends or changes something needs the operator's token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.config import Secret
from proxy.core.policy.budget import Budget

HEADERS: Final = {
    "Server": "glm-proxy",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TRIES: Final = 10
"""Wrong tokens in a row; after that one more every ten seconds, from all callers together."""


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers of every answer, a stream's too; `Cache-Control` may be the route's own."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = HEADERS["Server"]


def host_check(names: frozenset[str]) -> Middleware:
    """Refuses every request whose `Host` is not ours (421, RFC 9110 §15.5.20)."""
    known = frozenset(map(_canonical, names))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _is_ours(hosts[0], known):
            raise web.HTTPMisdirectedRequest(text="421: unknown Host; see admin.hosts\n")
        return await handler(request)

    return check


@web.middleware
async def origin_check(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what a page of another origin makes a browser send (403).

    `Origin` where there is one, else Fetch Metadata: an image or script of ours asked for by a
    foreign page has no `Origin`. Following a link to the page is no such request.
    """
    origins = request.headers.getall("Origin", [])
    if origins:
        foreign = len(origins) > 1 or not _is_same_origin(origins[0], request.headers["Host"])
    else:
        site = request.headers.get("Sec-Fetch-Site", "none")
        navigation = request.method == "GET" and (
            request.headers.get("Sec-Fetch-Mode") == "navigate"
            and request.headers.get("Sec-Fetch-Dest") == "document"
        )
        foreign = site not in ("same-origin", "none") and not navigation
    if foreign:
        raise web.HTTPForbidden(text="403: asked for by a page of another site\n")
    return await handler(request)


class TokenCheck:
    """The operator's token, compared in constant time. Guesses are answered 429 after some; the
    right token lets in even then, so that nobody who guesses keeps the operator out."""

    def __init__(self, token: Secret | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._tries = Budget(0.0, burst=_TRIES, per_second=0.1)

    def refusal(self, request: web.Request) -> tuple[int, str, str] | None:
        """Status, code and message for a request that may not act; None: it may."""
        if self._token is None:
            return 403, "no_token", "this needs a token: set admin.token, and start again"
        values = request.headers.getall("Authorization", [])
        scheme, _, given = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        expected = self._token.reveal().encode()
        known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
        if known and scheme.lower() == "bearer":
            return None
        if not self._tries.take(self._clock()):
            return 429, "too_many_tries", "too many wrong tokens; try again in ten seconds"
        return 401, "wrong_token", "send the token of admin.token: Authorization: Bearer TOKEN"


def _is_same_origin(origin: str, host: str) -> bool:
    """Whether an `Origin` (RFC 6454) is what a page from `Host` has; the scheme may differ, since
    TLS may end before us."""
    try:
        parts = urlsplit(origin)
        port = parts.port
        own = urlsplit(f"{parts.scheme}://{host}")
        own_port = own.port
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return False
    return parts.hostname == own.hostname and (port or default) == (own_port or default)


def _is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether a `Host` value is an address, `localhost` or one of `names`; a port may follow."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return bool(bracket) and _is_port(port) and _is_address(name)
    name, colon, port = host.partition(":")
    if not _is_port(colon + port):
        return False
    name = _canonical(name)
    return name == "localhost" or name in names or _is_address(name)


def _is_port(text: str) -> bool:
    """Nothing, or a colon and digits (RFC 3986, section 3.2.3)."""
    return not text or (text[0] == ":" and (text[1:].isdecimal() or not text[1:]))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _canonical(name: str) -> str:
    """Names differ neither by case nor by the root's dot."""
    return name.lower().removesuffix(".")
