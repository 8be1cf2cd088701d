"""One process that serves and is told by signals: `server.workers: 1`."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from proxy.config import CannotReload, Config, ConfigError
from proxy.net.listen import Listeners
from proxy.observe.app_log import LOGGER
from proxy.observe.folder import CannotShare
from proxy.state.home import StateError
from proxy.workers import channel
from proxy.workers.activation import Systemd
from proxy.workers.channel import Channel
from proxy.workers.drain import ENDING, KEPT, Stoppable, drain
from proxy.workers.words import ERROR, OUT, listening, refused, say, stopping

log = logging.getLogger(LOGGER)


class App(Stoppable, Protocol):
    """What is run here: `proxy.app.App`."""

    on_reload: Callable[[], Awaitable[None]] | None
    """Reads and uses the settings again, for the operator's listener."""

    @property
    def data_address(self) -> tuple[str, int]: ...

    @property
    def admin_address(self) -> tuple[str, int]: ...

    async def start(self, listeners: Listeners, *, follows: bool = False) -> None:
        """Listen; `follows`: only where the keys are known, since another process serves. Raises
        CannotShare, StateError or ConfigError, having closed what was open."""

    async def reload(self, config: Config) -> None:
        """Use these settings from now on. Raises CannotReload; then nothing is changed."""

    def settings_refused(self) -> None:
        """Settings were to be loaded and could not be: those before them stay."""


class Alone:
    """Runs `app` until a signal has stopped it. `load` reads the settings again; it raises
    ConfigError. `old` is the master whose sockets these are, if there is one."""

    def __init__(
        self,
        app: App,
        config: Config,
        load: Callable[[], Config],
        systemd: Systemd,
        old: Channel | None = None,
    ) -> None:
        self._app = app
        app.on_reload = self._read_again
        self._config = config
        self._load = load
        self._systemd = systemd
        self._old = old
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        """Somebody says that there are other settings."""
        self._reading = asyncio.Lock()
        self._last: signal.Signals | None = None

    async def serve(self, listeners: Listeners) -> int:
        """The exit code."""
        with _caught(self._signals):
            try:
                await self._app.start(listeners, follows=self._old is not None)
            except (CannotShare, StateError, ConfigError) as error:
                say(f"glm-proxy: {error}", ERROR)
                return 1
            say(listening(self._app.data_address, self._app.admin_address), OUT)
            self._systemd.ready()
            if self._old is not None:
                self._old.send(channel.READY)
            async with _beside(self._sign()):
                async with _beside(self._reload()):
                    await self._until_told()
                return await self._drain()

    async def _until_told(self) -> None:
        while (number := await self._signals.get()) not in ENDING:
            if number == signal.SIGHUP:
                self._changed.set()
            else:
                log.warning(
                    "%s has no effect: only a master, which server.workers makes, can be followed"
                    " by another one without a restart",
                    number.name,
                )

    async def _reload(self) -> None:
        """However often it is said meanwhile, they are read once more; nothing waits for it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._systemd.reloading()
            with suppress(ConfigError, CannotReload):
                await self._read_again()
            self._systemd.ready()

    async def _read_again(self) -> None:
        """Raises ConfigError and CannotReload, and has told the operator then."""
        async with self._reading:  # what was read first must not come into use last
            try:
                self._config = await self._use_anew()
            except (ConfigError, CannotReload) as error:
                say(refused(error.problems), ERROR)
                raise
        log.info("the settings were read again")

    async def _use_anew(self) -> Config:
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError:
            self._app.settings_refused()
            raise
        await self._app.reload(config)
        return config

    async def _drain(self) -> int:
        self._systemd.stopping()
        timeout = self._config.server.drain_timeout
        say(stopping(timeout), ERROR)
        async with _beside(self._impatience()):
            await drain(self._app, timeout, self._hurry)
        # As a shell reports a process that a signal ended.
        return 0 if self._last is None else 128 + self._last

    async def _impatience(self) -> None:
        while (number := await self._signals.get()) not in ENDING:
            pass
        self._last = number
        self._hurry.set()

    async def _sign(self) -> None:
        """The loop turns: that is what a watchdog is for."""
        while self._systemd.watchdog:
            self._systemd.lives(asyncio.get_running_loop().time())
            await asyncio.sleep(self._systemd.watchdog)


class _beside:
    """A task that ends with the block."""

    def __init__(self, what: Awaitable[None]) -> None:
        self._task = asyncio.ensure_future(what)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextmanager
def _caught(signals: asyncio.Queue[signal.Signals]) -> Iterator[None]:
    """Signals as they come, instead of their default effect."""
    loop = asyncio.get_running_loop()
    for number in KEPT:
        loop.add_signal_handler(number, signals.put_nowait, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, KEPT)
    try:
        yield
    finally:
        for number in KEPT:
            loop.remove_signal_handler(number)
