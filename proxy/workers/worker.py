"""One worker: an `App` on the master's sockets, from the fork to its end.

What it has to do it is told on its channel. Of signals it knows the two that end a process, which
whoever starts us may send to all of its processes at once: it then asks the master what to do, and
a second one changes nothing. Without a master it ends as if told to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvloop

from proxy.app import App
from proxy.config import CannotReload, Config, ConfigError, Problem
from proxy.net.listen import Listeners
from proxy.observe.app_log import LOGGER, own_log
from proxy.observe.folder import CannotShare
from proxy.state.home import StateError
from proxy.workers import channel
from proxy.workers.channel import Channel, Message
from proxy.workers.drain import ENDING, drain

log = logging.getLogger(LOGGER)

Make = Callable[[Config], App]
"""Builds what is run, in the process that runs it."""

BEAT: Final = 0.5
"""Seconds between two beats."""


def run(
    config: Config, listeners: Listeners, make: Make, master: Channel, *, follows: bool = False
) -> int:
    """The exit code. `config` is that of the fork; others may come. `follows`: as for an App."""
    with own_log(config.log):
        try:
            return uvloop.run(_Worker(config, make, master).live(listeners, follows=follows))
        except Exception:
            log.exception("a worker broke")
            return 1


class _Worker:
    def __init__(self, config: Config, make: Make, master: Channel) -> None:
        self._config = config
        self._make = make
        self._master = master
        self._settings: asyncio.Queue[Config | asyncio.Future[None]] = asyncio.Queue()
        """To be used, one after the other; whoever waits for those before it is in between."""
        self._asked: list[asyncio.Future[None]] = []
        """Who asked the master to read them again."""
        self._hurry = asyncio.Event()
        self._app: App
        self._told: asyncio.Future[bool]
        """To stop: whether others accept connections meanwhile."""

    async def live(self, listeners: Listeners, *, follows: bool) -> int:
        self._told = asyncio.get_running_loop().create_future()
        app = self._app = self._make(self._config)
        with self._listening():
            beating = asyncio.ensure_future(self._beat())
            try:
                await app.start(listeners, follows=follows)
            except (CannotShare, StateError, ConfigError) as error:
                self._master.send(channel.FAILED, str(error).encode())
                return 1
            else:
                await self._serve(app)
                return 0
            finally:
                beating.cancel()

    async def _serve(self, app: App) -> None:
        app.on_reload = self._ask
        self._master.send(channel.READY)
        reloading = asyncio.ensure_future(self._reload(app))
        try:
            replaced = await self._told
        finally:
            reloading.cancel()
        await drain(app, self._config.server.drain_timeout, self._hurry, replaced=replaced)

    async def _beat(self) -> None:
        while True:
            self._master.send(channel.BEAT)
            await asyncio.sleep(BEAT)

    async def _reload(self, app: App) -> None:
        while True:
            found = await self._settings.get()
            if isinstance(found, asyncio.Future):
                found.set_result(None)
                continue
            try:
                await app.reload(found)
            except CannotReload as error:
                self._master.send(channel.REFUSED, channel.problems_text(error.problems))
            else:
                self._config = found
                self._master.send(channel.RELOADED)

    async def _ask(self) -> None:
        """Have the settings read again, for all workers. Raises CannotReload."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        if not self._master.send(channel.RELOAD):
            self._answer([Problem("", "the master does not listen")])
        await asyncio.shield(asked)

    def _answer(self, problems: Sequence[Problem]) -> None:
        asked, self._asked = self._asked, []
        for one in asked:
            if problems:
                one.set_exception(CannotReload(problems))
            else:
                self._settings.put_nowait(one)

    # --- what it is told -----------------------------------------------------------------------

    @contextmanager
    def _listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._master.send, channel.LEAVING)
        loop.add_reader(self._master.fileno(), self._read)
        try:
            yield
        finally:
            loop.remove_reader(self._master.fileno())
            for number in ENDING:
                loop.remove_signal_handler(number)

    def _read(self) -> None:
        try:
            while (message := self._master.receive()) is not None:
                self._obey(message)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._master.fileno())
            log.error("the master is gone; this worker lets what runs finish, and ends")
            self._stop(replaced=False)

    def _obey(self, message: Message) -> None:
        if message.kind == channel.STOP:
            self._stop(replaced=message.data == channel.REPLACED)
        elif message.kind == channel.HURRY:
            self._stop(replaced=False)
            self._hurry.set()
        elif message.kind == channel.SETTINGS:
            self._settings.put_nowait(channel.unpacked(message.data))
        elif message.kind == channel.KEPT:
            self._app.settings_refused()
        elif message.kind == channel.RELOADED:
            self._answer(())
        elif message.kind == channel.REFUSED:
            self._answer(channel.problems_of(message.data))

    def _stop(self, *, replaced: bool) -> None:
        if not self._told.done():
            self._told.set_result(replaced)
