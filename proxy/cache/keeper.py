"""Who hears an answer that is asked for, and keeps it if it can be told again."""

from __future__ import annotations

from proxy.cache.fetch import Fetch, Name
from proxy.config import Cache
from proxy.core.flow.kept import KeptAnswer, Read
from proxy.core.policy.cache import is_complete
from proxy.errors import ClientGone
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import HEARTBEAT, Writer

_HEARTBEATS = [HEARTBEAT]


class Keeper:
    """Of one exchange: a `proxy.listening.Listener`."""

    def __init__(
        self,
        house: House,
        client: Writer,
        facts: Facts,
        settings: Cache,
        name: Name,
        fetch: Fetch | None,
    ) -> None:
        """`fetch`: who wants the same answer; None: nobody is to wait for this one."""
        self._house = house
        self._client = client
        self._facts = facts
        self._settings = settings
        self._name = name
        self._fetch = fetch
        self._events: list[bytes] = []
        self._reads: list[Read] = []
        self._size = 0
        self._body = b""
        self._has_end = False
        self._began: float | None = None
        if fetch is not None:
            fetch.join(client)

    def take(self, events: list[bytes], last: bool) -> None:
        if self._is_too_large or events == _HEARTBEATS:
            return
        now = self._house.clock()
        if self._began is None:
            self._began = now
        self._events += events
        self._reads.append(Read(len(events), round(now - self._began, 3)))
        self._size += sum(map(len, events))
        self._has_end = last
        if self._is_too_large:
            self._events, self._reads = [], []

    def whole(self, body: bytes) -> None:
        self._size, self._body, self._has_end = len(body), body, True

    def ended(self, completed: bool) -> None:
        fetch, self._fetch = self._fetch, None
        answer = self._answer() if completed else None
        is_first = fetch is None or not fetch.is_over
        if fetch is not None:
            fetch.leave(self._client, answer, failed=self._facts.outcome != ClientGone.code)
        if answer is not None and is_first:
            store = self._house.answers.of(self._settings.store, "cache")
            store.put(*self._name, answer.packed(), self._settings.ttl)

    @property
    def _is_too_large(self) -> bool:
        return self._size > self._settings.max_answer

    def _answer(self) -> KeptAnswer | None:
        """None where it is not all there is to say, or not from whom it would be asked again."""
        facts = self._facts
        served, route, reason = facts.served_by, facts.route, facts.finish_reason
        if facts.status != 200 or not self._has_end or self._is_too_large:
            return None
        if reason is None or not is_complete(facts.dialect.name, reason):
            return None
        if facts.usage is None:  # whoever wants it whole is to be told
            return None
        assert route is not None
        if served is None or served.model != route.candidates[0].model:
            return None
        return KeptAnswer(
            at=self._house.wall(),
            dialect=facts.dialect.name,
            model=served.model,
            finish_reason=reason,
            events=self._events,
            reads=self._reads,
            body=self._body,
        )
