"""The body of a request, as slow and as large as a client may send it."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from proxy.errors import ClientError, RequestTimeout, RequestTooLarge
from proxy.net.client_connection import AGAIN, plain
from proxy.net.door import Held, Store


class RequestBody:
    """Read it once: `whole`, or its `parts`. `held` is to be told when it is not held any more."""

    __slots__ = (
        *("_content", "_grace", "_looked_again", "_rate"),
        *("fault", "held", "received"),
    )

    def __init__(self, content: StreamReader, store: Store, *, rate: int, grace: float) -> None:
        """`rate`: bytes per second; 0: any. `grace`: seconds of waiting before it counts."""
        self._content = content
        self.held = Held(store)
        self._rate = rate
        self._grace = grace
        self._looked_again = False
        self.received = 0
        self.fault: ClientError | None = None
        """What was wrong with it."""

    @property
    def is_read(self) -> bool:
        """Nothing of it is still to come."""
        return self._content.is_eof() and self._content.exception() is None

    def at_once(self, limit: int) -> bytes | None:
        """The whole body, when it came with the head; None when it has to be waited for.

        Raises RequestTooLarge over `limit` bytes.
        """
        if not self.is_read:
            return None
        body = self._content.read_nowait()
        self.received = len(body)
        if self.received > limit:
            raise too_large(limit)
        return body

    async def whole(self, limit: int, timeout: float) -> bytes:
        """Raises RequestTooLarge over `limit` bytes, RequestTimeout after `timeout` seconds or
        when it comes too slowly, Crowded, and ClientError when its framing is broken."""
        body = io.BytesIO()  # what it gives at the end is no copy, and parts may be of one byte
        for patience in (timeout, AGAIN):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    async for part in self.parts(limit):
                        self.held.add(len(part))
                        body.write(part)
                    return body.getvalue()
        raise RequestTimeout(f"the request body was not complete after {timeout:g} s")

    async def parts(self, limit: int | None) -> AsyncIterator[bytes]:
        """As they come. Raises RequestTooLarge, RequestTimeout, ClientError."""
        waited = 0.0
        while True:
            began = time.monotonic()
            part = await self._part(self._left(waited))
            waited += time.monotonic() - began
            if not part:
                return
            self.received += len(part)
            if limit is not None and self.received > limit:
                raise too_large(limit)
            yield part

    async def _part(self, left: float | None) -> bytes:
        """The next one, or none at the end."""
        try:
            if left is None:
                return await self._content.readany()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    return await self._content.readany()
            if not self._looked_again:
                self._looked_again = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN):
                        return await self._content.readany()
            self.fault = RequestTimeout(
                f"the request body came with less than {self._rate} bytes per second"
                " (server.body_rate)"
            )
        except (HttpProcessingError, RequestPayloadError) as error:
            self.fault = ClientError(f"the request body is broken: {plain(str(error))}")
        raise self.fault

    def _left(self, waited: float) -> float | None:
        """Seconds that may still be waited. Only the client's time counts, not the upstream's."""
        if not self._rate:
            return None
        return max(0.0, self._grace + self.received / self._rate - waited)


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"the request body is over the limit of {limit} bytes (server.body_limit)"
    )
