"""Requests for a response: made by `POST /v1/responses`, told again, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs

import orjson

from proxy import reply
from proxy.core.policy.route import Route
from proxy.core.policy.scope import scope_of
from proxy.core.wire import headers as policy
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.responses.asked import Asked, is_id
from proxy.core.wire.responses.turns import Turn
from proxy.core.wire.target import Kind, Target, resolve
from proxy.entry import count_in
from proxy.errors import ClientError, NotFound
from proxy.facts import Facts
from proxy.house import House
from proxy.net.halves import Client, Headers
from proxy.responding.client import ResponsesClient
from proxy.responding.history import History, Remembering
from proxy.store import AnswerStore

_CHAT: Final = resolve("POST", "/v1/chat/completions")


def made(
    house: House, client: Client, facts: Facts, target: Target, headers: Headers
) -> tuple[ResponsesClient, Target]:
    """`client` as one that asks for a chat, and where that goes. Raises NotFound."""
    if target.tail:
        raise NotFound("there is no such path; a response is made by POST /v1/responses")
    chat = facts.target = replace(target, kind=Kind.CHAT, tail=_CHAT.tail)

    def history(body: bytes, asked: Asked) -> History:
        """By the route of the request as it was sent. Raises NotFound where that has no
        responses."""
        assert facts.caller is not None
        request = ChatRequest(body, asked.fields, target.dialect, asked.model, asked.stream)
        lower = {name.lower(): value for name, value in headers}
        route = house.router.plan(request, chat, lower, house.wall(), facts.caller.key_name)
        if route.responses is None:
            raise NotFound(
                f"route {route.name} does not serve the Responses API; set `responses: {{}}` on"
                " it, or ask on /v1/chat/completions"
            )
        return History(
            _store(house, route),
            _scope(facts, headers),
            route.responses.retention,
            client.turns if isinstance(client, Remembering) else None,
        )

    depth = house.config.server.json_depth
    return ResponsesClient(client, history=history, depth=depth, wall=house.wall), chat


async def told(house: House, client: Client, facts: Facts, target: Target) -> None:
    """A kept response, told again or deleted: to who asked for it, and nobody else.

    Whether the key is still for the model, or the route, does not count: it is the caller's own.
    """
    response_id = target.tail.removeprefix("/")
    if not is_id(response_id):
        raise NotFound("name a response, such as /v1/responses/resp_…")
    if "true" in parse_qs(target.query).get("stream", ()):
        raise ClientError("a response is told again as a whole; leave out stream", param="stream")
    await count_in(house, facts, 0)
    if client.method == "DELETE":
        gone = await _deleted(house, client, facts, response_id)
        body = {"id": response_id, "object": "response", "deleted": True} if gone else None
    else:
        turn = await _found(house, client, facts, response_id)
        body = None if turn is None else turn.response
    if body is None:
        raise NotFound("there is no such response: it was not stored, or is not kept any more")
    reply.answer(client, facts, 200, [policy.JSON], orjson.dumps(body))


async def _found(house: House, client: Client, facts: Facts, response_id: str) -> Turn | None:
    scope = _scope(facts, client.headers())
    for route, store in _stores(house):
        assert route.responses is not None
        turn = await History(store, scope, route.responses.retention, None).find(response_id)
        if turn is not None:
            facts.route = route
            return turn
    return None


async def _deleted(house: House, client: Client, facts: Facts, response_id: str) -> bool:
    """Whether it was in one of the stores; it is in none of them any more."""
    scope = _scope(facts, client.headers())
    return any([await store.delete(scope, response_id) for _, store in _stores(house)])


def _stores(house: House) -> Iterator[tuple[Route, AnswerStore]]:
    """Each place once: an id does not say which route its response was made on."""
    known = set()
    for rule in house.config.routes:
        settings = None if rule.responses is None else rule.responses.store
        if settings is not None and settings not in known:
            known.add(settings)
            yield house.router.named(rule.name, ""), house.answers.of(settings, "responses")


def _store(house: House, route: Route) -> AnswerStore | None:
    settings = None if route.responses is None else route.responses.store
    return None if settings is None else house.answers.of(settings, "responses")


def _scope(facts: Facts, headers: Headers) -> str:
    assert facts.caller is not None
    return scope_of(facts.caller, policy.caller_key(headers))
