"""The client of a Responses request: to the exchange it asks for a chat, and it is told a Response.

The exchange stays what it is. What it reads here is the chat completion that the request stands
for; what it writes is translated on its way out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from proxy.core.wire.responses import asked as request
from proxy.core.wire.responses.asked import Asked
from proxy.core.wire.responses.chat import to_chat
from proxy.core.wire.responses.envelope import COMPLETED, INCOMPLETE
from proxy.core.wire.responses.translator import Translator
from proxy.core.wire.responses.turns import MOST_TURNS, Turn, items_of
from proxy.errors import ClientError, PreviousResponseNotFound, StreamCut
from proxy.net.aside import aside
from proxy.net.body import too_large
from proxy.net.halves import Client, Headers
from proxy.responding.history import History, Remembering
from proxy.responding.wrapped import WrappedClient


class ResponsesClient(WrappedClient):
    """One Responses request: `client` sent it, and gets the answer."""

    def __init__(
        self,
        client: Client,
        *,
        history: Callable[[bytes, Asked], History],
        depth: int,
        wall: Callable[[], float],
    ) -> None:
        """`history`: what the request may follow, once it is read; raises ProxyError where it may
        not be made at all. `depth`: deepest nesting of its body. `wall`: unix time in seconds."""
        super().__init__(client)
        self._find_history = history
        self._depth = depth
        self._wall = wall
        self._history: History | None = None
        self._asked: Asked | None = None
        self._before: tuple[str, ...] = ()
        """The ids of the responses that this one follows."""
        self._translator: Translator | None = None

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        """The chat completion that the body stands for.

        Raises what `Client.read_body` does, and ClientError for a request that cannot be served.
        """
        body = await self._client.read_body(limit=limit, timeout=timeout)
        asked = await aside(len(body), partial(request.read, body, self._depth))
        history = self._find_history(body, asked)
        turns = () if asked.previous is None else await _before(history, asked.previous)
        said = sum(turn.size for turn in turns)
        if len(body) + said > limit:
            raise too_large(limit)
        self._client.hold(said, kept=len(body))  # what was asked is told again at the end
        chat = await aside(len(body) + said, partial(to_chat, asked, items_of(turns)))
        self._asked, self._history = asked, history
        self._before = tuple(turn.id for turn in turns)
        response_id = f"resp_{secrets.token_hex(24)}"
        if isinstance(self._client, Remembering):
            self._client.response = response_id
        self._translator = Translator(asked, response_id, self._wall(), self._wall)
        return chat

    # --- the answer ------------------------------------------------------------------------

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """An error stays as it is: it is told in the same words."""
        if status == 200 and self._translator is not None:
            body = self._translator.whole(body)
            self._keep(len(body))
        self._client.answer(status, headers, body)

    def write(self, events: list[bytes], last: bool = False) -> None:
        assert self._translator is not None
        told = self._translator.take(events)
        if last:
            self._keep(sum(map(len, told)))
        if told or last:
            self._client.write(told, last)

    def cut(self, events: list[bytes]) -> None:
        translator = self._translator
        if translator is None:
            self._client.cut(events)
            return
        told = translator.take(events)
        told += translator.fail(StreamCut.code, "the answer broke off")
        self._client.cut(told)

    def _keep(self, size: int) -> None:
        """Before its client reads that it is over: the next request may follow at once."""
        translator, asked = self._translator, self._asked
        assert translator is not None
        assert asked is not None
        assert self._history is not None
        if translator.status in (COMPLETED, INCOMPLETE):
            turn = Turn(translator.response, asked.items, self._before, asked.size + size)
            self._history.keep(turn, store=asked.store)


async def _before(history: History, response_id: str) -> Sequence[Turn]:
    turns = await history.before(response_id)
    if turns is None:
        why = _LOST if history.stores else "this route stores none (`responses: {store: …}`)"
        text = f"the response that previous_response_id names is not known: {why}"
        raise PreviousResponseNotFound(text, param="previous_response_id")
    if len(turns) >= MOST_TURNS:
        text = f"a conversation has at most {MOST_TURNS} responses; begin another"
        raise ClientError(text, param="previous_response_id")
    return turns


_LOST: Final = (
    "it was not stored, is over its retention, was deleted or follows one that was, or cannot be"
    " looked up now"
)
