"""The Responses API on a WebSocket: `GET /v1/responses` upgraded. `proxy.core.wire.response_socket`
has the messages.

Each response is an exchange like that of `POST /v1/responses`. On one lane they follow each other:
the next begins when the one before is over, so that it can go on from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from proxy.core.wire import response_socket as wire
from proxy.core.wire.multiplex import NoMessage, WrongMessage
from proxy.core.wire.response_socket import Cancel, Create, Framing, Steer
from proxy.core.wire.target import Target
from proxy.core.wire.websocket import POLICY, Message
from proxy.errors import ClientError, ProxyError
from proxy.facts import Facts
from proxy.house import House
from proxy.net.aside import aside
from proxy.net.door import Held
from proxy.net.websocket import Socket
from proxy.responding.history import Turns
from proxy.sockets.chat_client import ChatClient
from proxy.sockets.chats import MOST_NONSENSE, admit, draining, of_a_chat
from proxy.sockets.crowd import Crowd


async def converse(
    house: House,
    socket: Socket,
    facts: Facts,
    target: Target,
    headers: Sequence[tuple[str, str]],
    peer: str,
) -> None:
    """Serve the responses of `socket`, until it is over."""
    lanes = Lanes(house, socket, target, headers, peer)
    facts.on_interrupt = lanes.crowd.interrupt
    try:
        await lanes.listen()
    finally:
        await lanes.end()


class ResponseClient(ChatClient):
    """One response. It may follow those in `turns`, and is one of them when it is over."""

    def __init__(self, turns: Turns, socket: Socket, framing: Framing, **request: Any) -> None:
        super().__init__(socket, framing, **request)
        self.turns = turns
        self.response: str | None = None
        """Its id, as soon as it has one."""


class Lanes:
    """One WebSocket and what is said on it."""

    def __init__(
        self,
        house: House,
        socket: Socket,
        target: Target,
        headers: Sequence[tuple[str, str]],
        peer: str,
    ) -> None:
        self.crowd = Crowd(house, socket)
        self._socket = socket
        self._target = target
        self._headers = of_a_chat(headers)
        self._peer = peer
        self._waiting: dict[str | None, deque[tuple[Create, Held]]] = {}
        """By lane; one that is here is in use."""
        self._turns = Turns(socket.store)
        self._nonsense = 0

    async def listen(self) -> None:
        """Until the socket is over."""
        while (message := await self._socket.receive()) is not None:
            try:
                await self._obey(await read(message))
            except NoMessage as error:
                self._socket.send(wire.refused(error, None))
                self._nonsense += 1
                if self._nonsense == MOST_NONSENSE:
                    self._socket.end(POLICY, "too many messages are no JSON objects")
            except ClientError as error:
                self._socket.send(wire.refused(error, None))
            else:
                self._nonsense = 0

    async def end(self) -> None:
        """The socket is over."""
        for queue in self._waiting.values():
            for _, held in queue:
                held.release()
        self._waiting.clear()
        await self.crowd.end()
        self._turns.end()

    async def _obey(self, asked: Create | Cancel | Steer) -> None:
        match asked:
            case Create():
                self._queue(asked)
            case Cancel():
                self._cancel(asked)
            case Steer():
                self._socket.send(wire.not_steered(asked))
                await self._socket.drain()  # it may be as large as a message

    def _queue(self, asked: Create) -> None:
        waiting = [held.size for queue in self._waiting.values() for _, held in queue]
        try:
            held = admit(self.crowd, self._socket, len(asked.body), waiting)
        except ProxyError as refusal:
            self._socket.send(wire.refused(refusal, asked.lane))
            return
        if asked.lane in self._waiting:
            self._waiting[asked.lane].append((asked, held))
        else:
            self._waiting[asked.lane] = deque()
            self._begin(asked, held)

    def _begin(self, asked: Create, held: Held) -> None:
        client = ResponseClient(
            self._turns,
            self._socket,
            Framing(asked.lane),
            peer=self._peer,
            raw_path=self._target.path,
            headers=self._headers,
            body=asked.body,
            held=held,
        )
        self.crowd.start(asked.lane or "", client, partial(self._go_on, asked.lane))

    def _go_on(self, lane: str | None) -> None:
        """A response is over: the next one of its lane begins, unless the server stops."""
        queue = self._waiting.pop(lane, deque())
        if self._socket.closing:
            for asked, held in queue:
                held.release()
                self._socket.send(wire.refused(draining(), asked.lane))
        elif queue:
            self._waiting[lane] = queue
            self._begin(*queue.popleft())

    def _cancel(self, asked: Cancel) -> None:
        name = asked.lane or ""
        if asked.response is not None and asked.response != self._made(name):
            raise WrongMessage("this response is not being made on this lane", id=asked.lane)
        if not self.crowd.cancel(name):
            raise WrongMessage("no response is being made on this lane", id=asked.lane)

    def _made(self, name: str) -> str | None:
        chat = self.crowd.chat(name)
        return chat.response if isinstance(chat, ResponseClient) else None


async def read(message: Message) -> Create | Cancel | Steer:
    """Raises WrongMessage."""
    if not message.text:
        raise NoMessage("the message is binary; send JSON as text")
    return await aside(len(message.data), lambda: wire.read(message.data))
