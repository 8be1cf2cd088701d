"""Memories that a service of the operator's keeps, called over HTTP.

    POST URL/search  {"scope", "session", "query", "limit"}
                     -> {"items": [{"text", "role", "at", "score"}]}   only text is needed
    POST URL/add     {"scope", "session", "turns": [{"role", "text", "at"}], "retention_seconds"}
                     -> any 2xx
    POST URL/forget  {"scope", "session"}     session null: all of the scope
                     -> {"deleted": 3}

`scope` is 64 hex digits, the same for one caller always: the HMAC-SHA256 of the caller's scope
under the token, without a token its SHA-256. `at` is unix seconds.

A service that fails again and again is left alone for some seconds at a time, then asked once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import aiohttp

from proxy.config import Breaker as BreakerSettings
from proxy.config import MemoryStore as Settings
from proxy.core.policy.breaker import Breaker
from proxy.core.policy.outcome import Outcome
from proxy.memory.store import Item, StoreFailed, Turn
from proxy.memory.stores.answers import LARGEST, clipped, deleted_of, items_of, order, sent
from proxy.memory.stores.fortune import Fortune
from proxy.net.tls import client_context

T = TypeVar("T")

_BREAKER: Final = BreakerSettings()
_MOST_AT_ONCE: Final = 64
"""Connections."""
_CHUNK: Final = 64 * 1024


class HttpStore:
    """From `open` to `close`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._url = settings.url
        self._token = None if settings.token is None else settings.token.reveal()
        self._timeout = settings.timeout
        self._ca_file = settings.ca_file
        self._breaker = Breaker(_BREAKER)
        self._fortune = Fortune(settings.url)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """It asks the service nothing: one that is away may come."""
        context = await asyncio.to_thread(client_context, self._ca_file)
        headers = {
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "glm-proxy",
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=_MOST_AT_ONCE),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),  # one limit for all of a call: see below
        )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def search(self, scope: str, session: str, query: str, most: int) -> list[Item]:
        asked = self._order(scope, session, query=clipped(query), limit=most)
        return await self._ask("search", asked, partial(items_of, most=most))

    async def add(self, scope: str, session: str, turns: Sequence[Turn], retention: float) -> None:
        told = self._order(scope, session, turns=sent(turns), retention_seconds=retention)
        await self._ask("add", told, lambda body: None)

    async def forget(self, scope: str, session: str | None) -> int:
        """It is asked even while it is left alone: somebody waits for this."""
        return await self._ask("forget", self._order(scope, session), deleted_of, always=True)

    # --- within ----------------------------------------------------------------------------------

    def _order(self, scope: str, session: str | None, **more: object) -> bytes:
        return order(self._name(scope), session, **more)

    def _name(self, scope: str) -> str:
        plain = scope.encode("utf-8", "surrogatepass")
        if self._token is None:
            return hashlib.sha256(plain).hexdigest()
        return hmac.new(self._token.encode(), plain, hashlib.sha256).hexdigest()

    async def _ask(
        self, what: str, body: bytes, read: Callable[[bytes], T], *, always: bool = False
    ) -> T:
        breaker = self._breaker
        if not always and not breaker.allows(self._clock()):
            raise StoreFailed(f"{self._url} has failed again and again, and is left alone")
        probe = breaker.start(self._clock())
        outcome = Outcome.NEUTRAL  # of a call that nobody waits for any more
        try:
            answer = read(await self._answer(what, body))
            outcome = Outcome.SUCCESS
        except StoreFailed as error:
            outcome = Outcome.FAILURE
            reason = f"{self._url}: {error}"
            self._fortune.failed(reason)
            raise StoreFailed(reason) from None
        finally:
            breaker.record(outcome, self._clock(), random.random(), probe=probe)
        self._fortune.worked()
        return answer

    async def _answer(self, what: str, body: bytes) -> bytes:
        """What it answers. Raises StoreFailed."""
        if self._session is None:
            raise StoreFailed("it is closed")
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.post(
                    f"{self._url}/{what}", data=body, allow_redirects=False
                ) as response,
            ):
                return await _whole(response)
        except TimeoutError:
            raise StoreFailed(f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise StoreFailed(f"it cannot be reached: {error.strerror}") from None
        except (aiohttp.ClientError, OSError):
            raise StoreFailed("it broke off its answer, or gave none that is HTTP") from None


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Its body, if it is an answer to read. Raises StoreFailed."""
    status = response.status
    if not 200 <= status < 300:
        hint = {401: "; look at its token", 403: "; look at its token"}.get(status, "")
        if 300 <= status < 400:
            hint = "; it is not followed elsewhere"
        raise StoreFailed(f"it answered {status}{hint}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise StoreFailed("its answer is encoded, which was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > LARGEST:
            raise StoreFailed("its answer is over 1 MiB")
    return bytes(body)
