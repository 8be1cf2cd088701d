"""One connection to Redis: what is asked while an answer is awaited is sent together after it.

Nothing here is repeated, and nobody waits longer than the link's own time-out. A link that failed
is closed; it is for its owner to connect it again, away from any request.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from redis import exceptions as said
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import Connection, SSLConnection
from redis.exceptions import InvalidResponse

from proxy.config import State
from proxy.state.home import StateError
from proxy.state.redis.words import FAILURES, NoScript, explained

Argument = str | bytes | int
Command = tuple[Argument, ...]

_AT_ONCE: Final = 64
"""Groups of commands that are sent together."""
_MOST_WAITING: Final = 10_000
"""Groups; further ones are refused."""
_LARGEST: Final = 1 << 20
"""Bytes of one value that Redis may send."""


class Script(NamedTuple):
    """One that runs within Redis."""

    text: str
    digest: str

    @classmethod
    def of(cls, name: str, beside: str = __file__) -> Self:
        """The file of that name beside this one, or beside another."""
        text = Path(beside).with_name(name).read_text(encoding="ascii")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def by_digest(self, keys: Sequence[str], *arguments: Argument) -> Command:
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)

    def whole(self, keys: Sequence[str], *arguments: Argument) -> Command:
        return ("EVAL", self.text, len(keys), *keys, *arguments)


class _Group(NamedTuple):
    commands: tuple[Command, ...]
    answers: asyncio.Future[list[Any]]


class Link:
    """In one event loop."""

    def __init__(self, state: State, timeout: float, largest: int = _LARGEST) -> None:
        """`timeout`: seconds for the answers to what is sent together; `largest`: bytes of one
        value that Redis may send."""
        self.name = f"Redis at {state.server}"
        self._timeout = timeout
        self._connection = _connection(state, largest)
        self._connected = False
        self._waiting: list[_Group] = []
        self._pump: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """As long as it takes. Raises StateError."""
        if self._connected:
            return
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call]
            self._connected = True
        except FAILURES as error:
            raise explained(self.name, error) from None
        finally:
            if not self._connected:
                await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait((self._pump,))
        await self._drop(StateError(f"{self.name} is not asked any more"))

    async def ask(self, *commands: Command) -> list[Any]:
        """The answer of each. Raises StateError, also where one of them is refused."""
        if not self._connected:
            raise StateError(f"{self.name} is not connected")
        if len(self._waiting) >= _MOST_WAITING:
            raise StateError(f"{self.name} is asked too much at once")
        group = _Group(commands, asyncio.get_running_loop().create_future())
        self._waiting.append(group)
        if self._pump is None:
            self._pump = asyncio.create_task(self._send_all())
        answers = await group.answers
        for answer in answers:
            if isinstance(answer, Exception):
                raise explained(self.name, answer)
        return answers

    async def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        """What the script returns. Raises StateError."""
        return (await self.run_all(script, [(keys, arguments)]))[0]

    async def run_all(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """The same for several calls. Raises StateError."""
        if not calls:
            return []
        try:
            return await self.ask(*(script.by_digest(keys, *more) for keys, more in calls))
        except NoScript:
            # None of them ran. Sent whole it is known for those behind it, and for later.
            (keys, more), *rest = calls
            first = script.whole(keys, *more)
            return await self.ask(first, *(script.by_digest(keys, *more) for keys, more in rest))

    async def _send_all(self) -> None:
        try:
            while self._waiting and self._connected:
                groups = [one for one in self._waiting[:_AT_ONCE] if not one.answers.done()]
                del self._waiting[:_AT_ONCE]
                await self._exchange(groups)
        finally:
            self._pump = None

    async def _exchange(self, groups: list[_Group]) -> None:
        commands = [command for group in groups for command in group.commands]
        if not commands:
            return
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._connection
                packed = connection.pack_commands(commands)
                await connection.send_packed_command(packed, check_health=False)
                for group in groups:
                    answers = [await self._answer() for _ in group.commands]
                    if not group.answers.done():
                        group.answers.set_result(answers)
        except FAILURES as error:
            await self._drop(explained(self.name, error), groups)
        except asyncio.CancelledError:
            await self._drop(StateError(f"{self.name} is not asked any more"), groups)
            raise

    async def _answer(self) -> Any:
        """One answer; an error that is one is returned."""
        try:
            return await self._connection.read_response(
                disable_decoding=True, disconnect_on_error=False
            )
        except said.ResponseError as error:
            return error

    async def _drop(self, error: StateError, groups: Sequence[_Group] = ()) -> None:
        self._connected = False
        for group in (*groups, *self._waiting):
            if not group.answers.done():
                group.answers.set_exception(error)
        self._waiting.clear()
        await self._connection.disconnect(nowait=True)


class _Parser(_AsyncRESP2Parser):
    """The package's own, for values of a bounded size."""

    largest = _LARGEST

    async def _read(self, length: int) -> bytes:
        if not 0 <= length <= self.largest:
            raise InvalidResponse("a value is too large")
        return await super()._read(length)


def _connection(state: State, largest: int) -> Connection:
    server = state.server
    settings: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "db": server.database,
        "username": server.user,
        "password": None if state.password is None else state.password.reveal(),
        # Time is kept here, for several commands at once.
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "parser_class": type("_Bounded", (_Parser,), {"largest": largest}),
        "protocol": 2,
        "driver_info": None,
    }
    if not server.tls:
        return Connection(**settings)
    ca_file = None if state.ca_file is None else str(state.ca_file)
    return SSLConnection(**settings, ssl_ca_certs=ca_file)
