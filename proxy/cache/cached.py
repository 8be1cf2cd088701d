"""What the cache is to one exchange: its look, and what is told again.

A question that is asked already is not asked twice at the same time: whoever wants the answer
whole waits for it; streams share a flight (`proxy.flight`), so that none waits for another's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from proxy import reply
from proxy.cache.fetch import Fetch, Name
from proxy.cache.keeper import Keeper
from proxy.config import Cache
from proxy.core.flow.kept import KeptAnswer, Read, wants_usage_alone
from proxy.core.flow.metadata import Annotated
from proxy.core.policy.cache import is_complete, is_one_answer, key_of, wish_of
from proxy.core.policy.rewrite import rewrite
from proxy.core.policy.route import Route
from proxy.core.policy.scope import scope_of
from proxy.core.wire import headers as policy
from proxy.core.wire.request import ChatRequest
from proxy.errors import UpstreamProtocolError
from proxy.facts import Facts
from proxy.house import House
from proxy.net.aside import aside
from proxy.net.awaited import Awaited
from proxy.net.halves import Client, Headers
from proxy.net.replay import Replay

_SKEW = 60.0
"""Seconds that another machine's clock may be ahead of ours."""
_PATIENCE = 1.0
"""Seconds after which it is looked whether those who ask still read."""
_EVENT_STREAM = ("content-type", "text/event-stream;charset=UTF-8")


class _Telling(NamedTuple):
    """What is to be told: events and when they came, or a body."""

    answer: KeptAnswer
    events: Sequence[bytes] = ()
    reads: Sequence[Read] = ()
    body: bytes = b""


class Cached:
    """From the request's parsing to its answer."""

    def __init__(
        self, house: House, client: Client, facts: Facts, headers: Headers, settings: Cache
    ) -> None:
        self.keeper: Keeper | None = None
        """Who hears the answer that has to be asked for; None: it is not to be kept."""
        self._house = house
        self._client = client
        self._facts = facts
        self._headers = headers
        self._settings = settings
        self._store = house.answers.of(settings.store, "cache")

    async def answers(self, request: ChatRequest, *, hasty: bool) -> bool:
        """Whether the client has its answer; else it has to be asked for. `hasty`: a client with
        deadlines of its own waits for nobody else's answer.

        Raises ProxyError where the proxy stops meanwhile.
        """
        facts, wish = self._facts, wish_of(self._headers)
        facts.cache = "bypass"
        if not wish.write or not is_one_answer(request.fields):
            return False
        name = await aside(request.size, partial(self._name, request))
        if not wish.read:
            self.keeper = self._new_keeper(name, None)
            return False
        facts.cache = "miss"
        found = await self._found(name, waits=not request.stream and not hasty)
        telling = None if found is None else await self._prepared(found, name, request)
        if telling is None:
            if found is not None:  # it cannot be told, so that it is replaced
                self.keeper = self._new_keeper(name, None)
            return False
        await self._tell(telling, request)
        return True

    def shared(self, route: Route) -> Route:
        """The route for what was missed: streams of one answer share it while it comes."""
        return replace(route, share=True) if self._facts.cache == "miss" else route

    def _name(self, request: ChatRequest) -> Name:
        facts, house = self._facts, self._house
        assert facts.route is not None
        assert facts.target is not None
        assert facts.caller is not None
        first = facts.route.candidates[0]
        capability = house.capabilities.of(first.model)
        body = rewrite(request, first.model, facts.route.params, capability).body
        key = key_of(facts.route.name, first, facts.target, self._headers, request, body)
        return Name(scope_of(facts.caller, policy.caller_key(self._headers)), key)

    def _new_keeper(self, name: Name, fetch: Fetch | None) -> Keeper:
        return Keeper(self._house, self._client, self._facts, self._settings, name, fetch)

    # --- looking -----------------------------------------------------------------------------

    async def _found(self, name: Name, *, waits: bool) -> KeptAnswer | None:
        """What is kept, or comes for somebody who asks it now; None: it has to be asked for."""
        table = self._house.fetches
        while (fetch := table.get(name)) is not None:
            found = await self._waited(fetch, fetch.answered if waits else fetch.looked)
            if found is not None:
                return found
            if waits and fetch.has_failed:
                self.keeper = self._new_keeper(name, None)
                return None
            if table.get(name) is fetch:
                self.keeper = self._new_keeper(name, fetch)
                return None
        fetch = Fetch(table, name)
        keeper = self._new_keeper(name, fetch)
        try:
            found = await self._kept(name)
        except BaseException:
            keeper.ended(False)
            raise
        if found is None:
            fetch.looked.settle(None)
            self.keeper = keeper
        else:
            fetch.leave(self._client, found, failed=False)
        return found

    async def _waited(self, fetch: Fetch, awaited: Awaited[KeptAnswer]) -> KeptAnswer | None:
        """None also where those who ask do not read what comes: then it is asked anew."""
        place, facts = awaited.place(), self._facts
        facts.on_interrupt = place.end
        try:
            while not await place.comes(_PATIENCE):
                if fetch.is_held_up:
                    fetch.forsake()
                    return None
            return await place.value()
        finally:
            facts.on_interrupt = None
            place.leave()

    async def _kept(self, name: Name) -> KeptAnswer | None:
        """What the store has, if it is what this version keeps and still good."""
        packed = await self._store.get(*name)
        if packed is None:
            return None
        answer = await aside(len(packed), partial(KeptAnswer.unpacked, packed))
        if answer is None or answer.dialect != self._facts.dialect.name:
            return None
        age = self._house.wall() - answer.at
        if not -_SKEW <= age < self._settings.ttl:
            return None
        return answer if is_complete(answer.dialect, answer.finish_reason) else None

    # --- telling -----------------------------------------------------------------------------

    async def _prepared(
        self, answer: KeptAnswer, name: Name, request: ChatRequest
    ) -> _Telling | None:
        """None: it cannot be told so."""
        size = len(answer.body) + sum(map(len, answer.events))
        try:
            if not request.stream:
                return _Telling(answer, body=await self._whole(answer, name, size))
            usage_alone = wants_usage_alone(request.fields)
            stream = partial(answer.stream, usage_alone=usage_alone)
            return _Telling(answer, *await aside(size, stream))
        except UpstreamProtocolError:
            return None

    async def _whole(self, answer: KeptAnswer, name: Name, size: int) -> bytes:
        """Putting it together takes a while, so that it is kept like this too."""
        if answer.body:
            return answer.body
        body = await aside(size, answer.whole)
        remaining = answer.at + self._settings.ttl - self._house.wall()
        if remaining > 0:
            self._store.put(*name, answer.packed(), remaining)
        return body

    async def _tell(self, telling: _Telling, request: ChatRequest) -> None:
        facts, client, answer = self._facts, self._client, telling.answer
        facts.cache, facts.cached_model = "hit", answer.model
        facts.cache_age = max(0, int(self._house.wall() - answer.at))
        facts.finish_reason = answer.finish_reason
        facts.status, facts.timeline.committed = 200, self._house.clock()
        if not request.stream:
            reply.answer(client, facts, 200, [policy.JSON], telling.body)
            return
        client.open([_EVENT_STREAM, *reply.added(facts, stream=True)])
        facts.stage = "streaming"
        if self._settings.replay == "at_once":
            self._writer()(list(telling.events), True)
        else:
            await self._replay(telling)
        facts.outcome, facts.stage = "completed", "done"

    async def _replay(self, telling: _Telling) -> None:
        """At the pace it came. Raises ProxyError."""
        facts, client = self._facts, self._client
        assert facts.route is not None
        replay = Replay(telling.events, telling.reads, facts.route.stream.client_stall)
        client.on_flow, facts.on_interrupt = replay.flow, replay.stop
        try:
            error = await replay.stream_into(self._writer(), client)
        finally:
            facts.on_interrupt = None
        if error is not None:
            raise error

    def _writer(self) -> Callable[[list[bytes], bool], None]:
        """Where the events go; with `emit_metadata` between two comments of our own."""
        facts, route = self._facts, self._facts.route
        assert route is not None
        if not route.stream.emit_metadata:
            return self._client.write
        decision = {
            "request_id": facts.id,
            "route": route.name,
            "model": facts.cached_model,
            "cache": facts.cache,
            "age": facts.cache_age,
        }
        timings = partial(reply.timings, facts, facts.timeline, ended=True)
        return Annotated(self._client.write, decision, timings)
