"""The upstreams of all settings in use: shared by those that say the same of an endpoint, and
closed when the last of them is given up.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy.config import Config, ConfigError, Endpoint, PoolSettings, Problem
from proxy.net.http1_probe import Http1Probe
from proxy.net.pool import Origin, Pool, PoolObserver, client_context
from proxy.net.upstream import Upstream


class Identity(NamedTuple):
    """What connections depend on. Keys do not count: they are sent with each request."""

    name: str
    """Of the endpoint: what its metrics and log lines say."""
    base_url: str
    trust: str | None
    """What the endpoint's `ca_file` holds."""
    settings: PoolSettings


@dataclass(slots=True, eq=False)
class Kept:
    """One endpoint's upstream."""

    identity: Identity
    upstream: Upstream
    tls: ssl.SSLContext | None
    """The trust for its origin, without ALPN."""
    users: int = 0


class Pools:
    """For one event loop, but for `prepare`. Whoever takes gives back."""

    def __init__(self, observer: Callable[[str], PoolObserver]) -> None:
        """`observer` makes what is told of the connections to an endpoint of that name."""
        self._observer = observer
        self._kept: dict[Identity, Kept] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def prepare(self, config: Config) -> Mapping[str, Kept]:
        """The upstream of each endpoint by its name: the one there is, or a new one. In any thread,
        while what there is is `held`. Raises ConfigError for each file that cannot be used."""
        found: dict[str, Kept] = {}
        problems: list[Problem] = []
        for index, endpoint in enumerate(config.endpoints):
            try:
                found[endpoint.name] = self._prepared(endpoint, config.pool)
            except (OSError, ValueError) as error:
                problems.append(Problem(f"endpoints[{index}].ca_file", str(error)))
        if problems:
            raise ConfigError("settings", problems)
        return found

    def take(self, those: Iterable[Kept]) -> None:
        """Use them."""
        for kept in those:
            self._kept[kept.identity] = kept
            kept.users += 1

    def give_back(self, those: Iterable[Kept]) -> None:
        """They are used no more: those that nobody else uses are closed."""
        for kept in those:
            kept.users -= 1
            if not kept.users and not self._is_closed:
                del self._kept[kept.identity]
                task = asyncio.get_running_loop().create_task(kept.upstream.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    @contextmanager
    def held(self) -> Iterator[None]:
        """None of those there are is closed meanwhile."""
        those = tuple(self._kept.values())
        self.take(those)
        try:
            yield
        finally:
            self.give_back(those)

    async def close(self) -> None:
        """All of them, whoever uses them."""
        self._is_closed = True
        for kept in tuple(self._kept.values()):
            await kept.upstream.close()
        await asyncio.gather(*self._closing)

    def _prepared(self, endpoint: Endpoint, settings: PoolSettings) -> Kept:
        """Raises OSError, ValueError."""
        ca_file = endpoint.ca_file
        trust = None if ca_file is None else ca_file.read_text(encoding="ascii")
        identity = Identity(endpoint.name, endpoint.base_url, trust, settings)
        return self._kept.get(identity) or self._made(identity, endpoint)

    def _made(self, identity: Identity, endpoint: Endpoint) -> Kept:
        origin, settings = Origin.of(endpoint.base_url), identity.settings
        tls = client_context(endpoint.ca_file) if origin.scheme == "https" else None
        upstream = Upstream(
            Pool(origin, settings, tls, observer=self._observer(endpoint.name)),
            Http1Probe(origin, tls, settings) if tls and settings.http2 == "auto" else None,
            prefix=urlsplit(endpoint.base_url).path,
            http1_bodies_over=settings.http1_bodies_over,
        )
        return Kept(identity, upstream, tls)
