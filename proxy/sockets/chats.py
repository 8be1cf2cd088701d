"""Many chats on one WebSocket: `GET /v1/chat/completions` upgraded. `proxy.core.wire.multiplex` has
the messages.

A message that cannot be obeyed is told so and leaves all chats as they are; only who goes on
sending what is no message at all is shown out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proxy.core.wire import event_ids, multiplex
from proxy.core.wire.handshake import with_key
from proxy.core.wire.multiplex import Cancel, Framing, More, NoMessage, Start, WrongMessage
from proxy.core.wire.target import Target
from proxy.core.wire.websocket import POLICY, Message
from proxy.errors import ClientError, Draining, ProxyError, TooManyChats
from proxy.facts import Facts
from proxy.house import House
from proxy.net.aside import aside
from proxy.net.door import Held
from proxy.net.websocket import Socket
from proxy.sockets.chat_client import ChatClient
from proxy.sockets.crowd import STOPPING, Crowd

MOST_NONSENSE: Final = 8
"""Messages in a row that are none."""

_NOT_OF_A_CHAT: Final = frozenset(
    {"content-encoding", "content-length", "content-type", "idempotency-key", "x-request-id"}
)
"""True of the upgrade alone, or of each chat another."""
_PLAIN_EVENTS: Final = (event_ids.ASKED, "off")
"""Events are told as messages, where an id has no place."""


async def converse(
    house: House,
    socket: Socket,
    facts: Facts,
    target: Target,
    headers: Sequence[tuple[str, str]],
    peer: str,
) -> None:
    """Serve the chats of `socket`, until it is over."""
    chats = Chats(house, socket, target, headers, peer)
    facts.on_interrupt = chats.crowd.interrupt
    try:
        await chats.listen()
    finally:
        await chats.crowd.end()


def of_a_chat(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the upgrade, as far as they are those of each chat."""
    kept = [pair for pair in with_key(headers) if pair[0].lower() not in _NOT_OF_A_CHAT]
    return [*kept, _PLAIN_EVENTS]


class Chats:
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
        self._nonsense = 0

    async def listen(self) -> None:
        """Until the socket is over."""
        while (message := await self._socket.receive()) is not None:
            try:
                self._obey(await read(message))
            except NoMessage as error:
                self._socket.send(multiplex.refused(error))
                self._nonsense += 1
                if self._nonsense == MOST_NONSENSE:
                    self._socket.end(POLICY, "too many messages are no JSON objects")
            except ClientError as error:
                self._socket.send(multiplex.refused(error))
            else:
                self._nonsense = 0

    def _obey(self, asked: Start | Cancel | More) -> None:
        match asked:
            case Start():
                self._start(asked)
            case Cancel(id):
                if not self.crowd.cancel(id):
                    self._socket.send(multiplex.not_running(id))
            case More(id, events):
                self.crowd.grant(id, events)

    def _start(self, asked: Start) -> None:
        if asked.id in self.crowd:
            raise WrongMessage("a chat with this id runs already", id=asked.id, param="id")
        try:
            held = admit(self.crowd, self._socket, len(asked.body))
        except ProxyError as refusal:
            self._socket.send(multiplex.failed(asked.id, refusal))
            return
        own = {name for name, _ in asked.headers}
        headers = [pair for pair in self._headers if pair[0].lower() not in own]
        client = ChatClient(
            self._socket,
            Framing(asked.id),
            peer=self._peer,
            raw_path=self._target.path,
            headers=[*headers, *asked.headers],
            body=asked.body,
            held=held,
            window=asked.window,
        )
        self.crowd.start(asked.id, client)


async def read(message: Message) -> Start | Cancel | More:
    """Raises WrongMessage."""
    if not message.text:
        raise NoMessage("the message is binary; send JSON as text")
    return await aside(len(message.data), lambda: multiplex.read(message.data))


def admit(crowd: Crowd, socket: Socket, size: int, waiting: Sequence[int] = ()) -> Held:
    """What is held of a further chat, whose request has `size` bytes. `waiting`: the bytes of each
    request that is to begin behind another one. Raises Draining, TooManyChats, Crowded."""
    if socket.closing:
        raise draining()
    if crowd.is_full(waiting):
        raise TooManyChats("as many chats run on this WebSocket as may (websocket.max_chats)")
    if crowd.is_heavy(waiting):
        raise TooManyChats(
            "too many bytes of requests wait on this WebSocket for their answers, or of answers to"
            " be read"
        )
    return crowd.hold(size)


def draining() -> Draining:
    """The server stops, and begins nothing new."""
    return Draining(f"{STOPPING}; open another WebSocket")
