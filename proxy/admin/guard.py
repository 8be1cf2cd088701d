"""Who may read the operator's listener from a browser, and who may act by it.

A page of another site must not be able to read it by pointing a name at its address (DNS
rebinding), so the `Host` of every request has to be an address, `localhost` or a configured name.
Nor may such a page use it through its visitor: a request that a browser says comes from elsewhere
is refused. What sends or changes something needs the operator's token besides.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.config import Secret

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
TRIES: Final = 10
"""Wrong tokens of one address in a minute; those after that are told so."""
_MINUTE: Final = 60.0
_ADDRESSES: Final = 4096
"""Remembered; of those who guess from more, the first are forgotten."""


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers of every answer, a stream's too; `Cache-Control` may be the route's own."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = HEADERS["Server"]


class Hosts:
    """The names that the listener is reached by, besides addresses and `localhost`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.use(names)

    def use(self, names: Iterable[str]) -> None:
        """From now on these."""
        self._names = frozenset(map(_canonical, names))

    def has(self, host: str) -> bool:
        """Whether that value of `Host` is ours."""
        return _is_ours(host, self._names)


def host_check(known: Hosts) -> Middleware:
    """Refuses every request whose `Host` is not ours (421, RFC 9110 §15.5.20)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not known.has(hosts[0]):
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
    """The operator's token, compared in constant time. Guesses of one address are answered 429
    after some; the right token lets in even then, so that nobody who guesses behind the same
    address keeps the operator out."""

    def __init__(self, token: Secret | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.use(token)
        self._clock = clock
        self._tries: dict[str, deque[float]] = {}
        """When each address guessed, the latest guesser last."""

    def use(self, token: Secret | None) -> None:
        """From now on this one; None: nobody has it."""
        self._digest = None if token is None else _digest(token.reveal())

    def refusal(
        self, request: web.Request, *, as_password: bool = False
    ) -> tuple[int, str, str] | None:
        """Status, code and message for a request that does not have the token; None: it has.

        `as_password`: HTTP Basic will do too (RFC 7617), with any name and the token as password.
        """
        if self._digest is None:
            return 403, "no_token", "this needs a token: set admin.token"
        values = request.headers.getall("Authorization", [])
        given = _credential(values[0], as_password=as_password) if len(values) == 1 else ""
        if hmac.compare_digest(_digest(given), self._digest):
            return None
        if values and not self._may_guess(request.remote or ""):
            return 429, "too_many_tries", "too many wrong tokens; try again in a minute"
        return 401, "wrong_token", "send the token of admin.token: Authorization: Bearer TOKEN"

    def _may_guess(self, address: str) -> bool:
        """Counts a wrong token. What comes without one guesses nothing, and is not counted."""
        now = self._clock()
        tries = self._tries.pop(address, None) or deque(maxlen=TRIES)
        self._tries[address] = tries
        if len(self._tries) > _ADDRESSES:
            del self._tries[next(iter(self._tries))]
        if len(tries) == TRIES and now - tries[0] < _MINUTE:
            return False
        tries.append(now)
        return True


def _digest(text: str) -> bytes:
    """All of one length, so that comparing them tells no length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _credential(value: str, *, as_password: bool) -> str:
    """What an `Authorization` value gives as the token; empty: nothing."""
    scheme, _, given = value.partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "basic" if as_password:
            try:
                pair = base64.b64decode(given.strip(), validate=True).decode()
            except ValueError:  # no base64, or no UTF-8
                return ""
            return pair.partition(":")[2]
        case _:
            return ""


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
