"""The chats that run on one WebSocket: each an exchange of its own, and a task that is owned here.

When one is cancelled its upstream is told in the same turn of the event loop. They all end with the
socket. While the server stops they finish, and the socket closes behind the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from proxy.core.wire.websocket import GOING_AWAY
from proxy.errors import InternalError, ProxyError
from proxy.house import House
from proxy.net.door import Held
from proxy.net.websocket import Socket
from proxy.sockets.chat_client import ChatClient

_MOST_MESSAGES: Final = 8
"""So many of the largest messages' bytes are held for chats whose answers have not begun."""
STOPPING: Final = "the proxy is stopping"
RECONNECT: Final = f"{STOPPING}; connect again"


class Crowd:
    """The chats of `socket`, by what their client calls them."""

    def __init__(self, house: House, socket: Socket) -> None:
        self._house = house
        self._socket = socket
        self._limits = house.config.websocket
        self._stall = house.config.stream.client_stall
        self._chats: dict[ChatClient, asyncio.Task[None]] = {}
        self._named: dict[str, ChatClient] = {}
        socket.on_flow = self._flow
        socket.on_drain = self._go_when_empty

    def __contains__(self, name: str) -> bool:
        """Whether such a chat has something to say. One that has said its last message has not:
        its task may have a moment to go, but its client may use the name again."""
        chat = self._named.get(name)
        return chat is not None and not chat.is_told

    def chat(self, name: str) -> ChatClient | None:
        """The one that is called so."""
        return self._named.get(name)

    def is_full(self, waiting: Sequence[int]) -> bool:
        """No further chat fits, besides those `waiting` to begin."""
        running = sum(not chat.is_told for chat in self._chats)
        return running + len(waiting) >= self._limits.max_chats

    def is_heavy(self, waiting: Sequence[int]) -> bool:
        """The requests that are held, with those `waiting` of so many bytes each, and what was said
        and not read, are as large as may be: a request is held until its answer begins."""
        held = sum(chat.held.size for chat in self._chats if not chat.has_begun)
        unread = self._socket.bytes_out - self._socket.taken if self._socket.paused else 0
        return held + sum(waiting) + unread >= _MOST_MESSAGES * self._limits.max_message

    def hold(self, size: int) -> Held:
        """For the request of a chat that is to begin. Raises Crowded."""
        held = Held(self._socket.store)
        held.add(size)
        return held

    def start(self, name: str, client: ChatClient, over: Callable[[], None] | None = None) -> None:
        """`over` is called when it has ended, however it did."""
        task = asyncio.create_task(self._live(client))
        self._chats[client] = task
        self._named[name] = client
        self._socket.busy = True
        task.add_done_callback(partial(self._ended, name, client, over))

    def cancel(self, name: str) -> bool:
        """Whether such a chat was not over; it is told so when its upstream has been."""
        if name not in self:
            return False
        chat = self._named[name]
        chat.stop()
        self._chats[chat].cancel()
        return True

    def grant(self, name: str, events: int) -> None:
        """So many more events of a chat may be sent; one that is over needs no more."""
        chat = self._named.get(name)
        if chat is not None:
            chat.grant(events)

    def interrupt(self, error: ProxyError) -> None:
        """The time to finish is over. The exchanges of the chats are told so themselves; what was
        only held back for its client is not sent any more."""
        for client in tuple(self._chats):
            if client.has_ended:
                client.fail(error)
        self._go_when_empty()

    async def end(self) -> None:
        """The socket is over: so are all its chats, at once."""
        self._socket.on_flow = self._socket.on_drain = None
        tasks = list(self._chats.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, client: ChatClient) -> None:
        await self._house.serve(client)
        client.on_flow = None
        await client.emptied(self._stall)

    def _ended(
        self,
        name: str,
        client: ChatClient,
        over: Callable[[], None] | None,
        task: asyncio.Task[None],
    ) -> None:
        del self._chats[client]
        if self._named.get(name) is client:
            del self._named[name]
        client.held.release()
        self._socket.busy = bool(self._chats)
        if task.cancelled() or client.is_stopped:
            client.cancelled()
        elif not client.has_ended:
            client.fail(InternalError("the answer broke off; the proxy's log says more"))
        if over is not None:
            over()
        if self._socket.closing:
            self._go_when_empty()

    def _flow(self, paused: bool) -> None:
        for client in tuple(self._chats):
            client.socket_flow(paused)

    def _go_when_empty(self) -> None:
        if not self._chats:
            self._socket.end(GOING_AWAY, RECONNECT)
