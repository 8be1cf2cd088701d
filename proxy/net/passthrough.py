"""Every other path of the API: both bodies streamed, nothing kept, nothing understood.

The client's body goes up while the answer may already come down: an early refusal is delivered
and the rest of the upload is not sent. An answer that breaks off is never given a clean end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp

from proxy.core.wire.headers import content_of
from proxy.core.wire.inflate import ENCODINGS, Inflate
from proxy.errors import AnswerTooLarge, ClientError, ProxyError, TotalTimeout, UpstreamReset
from proxy.net.h2.connection import Connection, Head, Reader
from proxy.net.halves import Client, Headers
from proxy.net.http1 import Use, translate
from proxy.net.upstream import Outgoing, Upstream, head_of

Mask = Callable[[bytes], bytes]

_LARGEST_ERROR = 1 << 20
"""Bytes."""


class Answer(NamedTuple):
    """The head of an upstream's answer, the pieces of its body as they come, and how it came."""

    head: Head
    parts: AsyncIterator[bytes]
    protocol: str
    reused: bool
    sent: float
    """When the request was handed to a connection, on the monotonic clock."""


async def passthrough(
    client: Client,
    upstream: Upstream,
    outgoing: Outgoing,
    *,
    head: Callable[[Answer], Headers],
    mask: Mask | None,
    total: float,
) -> None:
    """Send `client`'s body with the head of `outgoing`; bring the answer back as it comes.

    `head` is called once, when the answer's head is here, and says the headers the client gets.
    `mask` is what an error of the upstream goes through, for it may quote the key that it got: then
    it is read whole. Raises ProxyError.
    """
    try:
        async with asyncio.timeout(total), _sent(client, upstream, outgoing) as answer:
            if mask is not None and answer.head.status >= 400:
                answer = await _masked(answer, mask)
            await client.open_body(answer.head.status, head(answer))
            async for part in answer.parts:
                await client.write_body(part)
    except TimeoutError:
        raise TotalTimeout(f"the answer was not whole after {total:g} s") from None


async def _masked(answer: Answer, mask: Mask) -> Answer:
    """The same error, whole and without what it must not tell."""
    _, encoding = content_of(answer.head.headers)
    inflate = Inflate() if encoding in ENCODINGS else None
    body = b""
    async for part in answer.parts:
        body += part if inflate is None else inflate.feed(part)
        if len(body) > _LARGEST_ERROR:
            raise AnswerTooLarge("the upstream's error is over the limit")
    headers = [
        (name, value)
        for name, value in answer.head.headers
        if name.lower() not in (b"content-length", b"content-encoding")
    ]
    if inflate is None and encoding not in (b"", b"identity"):
        body = b""  # nobody asked for it so, and nobody here can read it
    body = mask(body)
    headers.append((b"content-length", b"%d" % len(body)))
    return answer._replace(head=Head(answer.head.status, headers), parts=_only(body))


async def _only(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


@asynccontextmanager
async def _sent(client: Client, upstream: Upstream, outgoing: Outgoing) -> AsyncIterator[Answer]:
    connection = await upstream.acquire(client.content_length or 0)
    if connection is None:
        async with _over_http1(client, upstream, outgoing) as answer:
            yield answer
    else:
        async with _over_h2(client, upstream, connection, outgoing) as answer:
            yield answer


@asynccontextmanager
async def _over_http1(
    client: Client, upstream: Upstream, outgoing: Outgoing
) -> AsyncIterator[Answer]:
    headers = list(outgoing.headers)
    if client.content_length is not None and client.has_body:
        headers.append(("content-length", str(client.content_length)))
    body = client.body_parts(limit=None) if client.has_body else None
    use = Use()
    sent = time.monotonic()
    try:
        async with upstream.pool.http1.request(
            outgoing.method,
            upstream.url(outgoing.path),
            headers=headers,
            data=body,
            allow_redirects=False,
            trace_request_ctx=use,
        ) as response:
            parts = _http1_parts(response)
            yield Answer(head_of(response), parts, "http/1.1", use.reused, sent)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # aiohttp's error does not say whose fault it was that the body could not be sent.
        raise (client.fault or translate(error)) from None


async def _http1_parts(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        while part := await response.content.readany():
            yield part
    except (aiohttp.ClientError, OSError) as error:
        raise translate(error) from None


@asynccontextmanager
async def _over_h2(
    client: Client, upstream: Upstream, connection: Connection, outgoing: Outgoing
) -> AsyncIterator[Answer]:
    reused = connection.requests > 0
    headers = upstream.h2_headers(outgoing, client.content_length if client.has_body else None)
    reader = Reader.open(connection, headers, end=not client.has_body)
    sent = time.monotonic()
    upload = asyncio.get_running_loop().create_task(_upload(client, reader))
    try:
        head = await _head_or_failed_upload(reader, upload)
        yield Answer(head, aiter(reader), "h2", reused, sent)
    finally:
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)
        reader.cancel()


async def _upload(client: Client, reader: Reader) -> None:
    stream = reader.stream
    if not client.has_body or stream is None:
        return
    try:
        async for part in client.body_parts(limit=None):
            await stream.send(part)
    except ClientError:  # an answer that has begun might wait for the rest for ever
        reader.cancel()
        reader.on_error(UpstreamReset("the request body broke off before the answer was whole"))
        raise
    await stream.send(b"", end=True)


async def _head_or_failed_upload(reader: Reader, upload: asyncio.Task[None]) -> Head:
    """The answer's head; or the client's own fault, when its body broke on the way up."""
    head = asyncio.get_running_loop().create_task(reader.head())
    try:
        await asyncio.wait((head, upload), return_when=asyncio.FIRST_COMPLETED)
        if upload.done() and not upload.cancelled():
            error = upload.exception()
            if isinstance(error, ClientError):
                raise error
            if not head.done() and error is not None and not isinstance(error, ProxyError):
                raise error
        return await head
    finally:
        head.cancel()
        await asyncio.gather(head, return_exceptions=True)
