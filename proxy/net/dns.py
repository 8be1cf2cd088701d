"""Host names to addresses: asked through the event loop, kept for a minute, in dialling order."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

TTL: Final = 60.0
"""Seconds an answer is kept. `getaddrinfo` does not tell the record's own TTL."""


class Address(NamedTuple):
    """One place to connect to, as `socket.connect` takes it."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


Resolve = Callable[[str, int], Awaitable[Iterable[Address]]]
"""(host, port) -> its addresses, best first. Raises OSError when the name has none."""


async def system_resolve(host: str, port: int) -> list[Address]:
    """The system's answer: /etc/hosts, DNS, and its order of preference (RFC 6724).

    Raises socket.gaierror.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # raised by the idna codec before anybody is asked
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from None
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Families in turn, beginning with the first address's (RFC 8305 §4); duplicates removed."""
    by_family: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        by_family.setdefault(address.family, []).append(address)
    rounds = zip_longest(*by_family.values())
    return [address for address in chain.from_iterable(rounds) if address is not None]


class Addresses:
    """The addresses of names, asked again after `TTL`, or at once after `forget`."""

    def __init__(self, resolve: Resolve, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolve = resolve
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}

    async def of(self, host: str, port: int) -> list[Address]:
        """At least one address, in dialling order. Raises OSError."""
        until, addresses = self._known.get((host, port), (0.0, []))
        if addresses and self._clock() < until:
            return addresses
        addresses = interleave(await self._resolve(host, port))
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        self._known[host, port] = self._clock() + TTL, addresses
        return addresses

    def forget(self) -> None:
        """Nobody answered at the addresses known: ask again next time."""
        self._known.clear()


class AiohttpResolver(AbstractResolver):
    """The same addresses for aiohttp's connector."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address.sockaddr[0],
                port=port,
                family=address.family,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._addresses.of(host, port)
            if family in (socket.AF_UNSPEC, address.family)
        ]

    async def close(self) -> None:
        """Nothing is held open."""
