"""One process without a master: what signals make it do, and what its end is like for clients."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy import __version__
from proxy.config import Admin, CannotReload, Config, ConfigError, Endpoint, Problem, Server
from proxy.net.listen import Listeners
from proxy.workers.activation import Systemd
from proxy.workers.alone import Alone
from tests.fakes.fleet import fleet
from tests.fakes.raw_client import RawClient, chat
from tests.fakes.traffic import script
from tests.fakes.until import until
from tests.fakes.upstream import ScriptedUpstream

PATH = "/v1/chat/completions"


class TinyApp:
    """A `stop` that takes as long as the test wants."""

    def __init__(self) -> None:
        self.on_reload: Callable[[], Awaitable[None]] | None = None
        self.listeners: Listeners
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()
        self.drained = asyncio.Event()
        self.timeout = 0.0
        self.used: list[Config] = []
        self.kept = 0

    @property
    def data_address(self) -> tuple[str, int]:
        host, port = self.listeners.data.getsockname()[:2]
        return host, port

    @property
    def admin_address(self) -> tuple[str, int]:
        host, port = self.listeners.admin.getsockname()[:2]
        return host, port

    async def start(self, listeners: Listeners, *, follows: bool = False) -> None:
        self.listeners = listeners
        self.listening.set()

    async def stop(self, timeout: float, *, replaced: bool = False) -> None:
        self.timeout = timeout
        self.stopping.set()
        await self.drained.wait()
        self.listeners.close()

    def hurry(self) -> None:
        self.drained.set()

    async def reload(self, config: Config) -> None:
        if config.server.body_limit == 1:
            raise CannotReload([Problem("server.body_limit", "is silly")])
        self.used.append(config)

    def settings_refused(self) -> None:
        self.kept += 1


@pytest.fixture
def config() -> Config:
    return Config(
        endpoints=(Endpoint(name="cn", base_url="http://127.0.0.1:1"),),
        server=Server(port=0, drain_timeout=7.0),
        admin=Admin(port=0),
    )


def begun(app: TinyApp, config: Config, load: Callable[[], Config] | None = None) -> Awaitable[int]:
    alone = Alone(app, config, load or (lambda: config), Systemd({}))
    listeners = Listeners.open(("127.0.0.1", 0), ("127.0.0.1", 0))
    return asyncio.create_task(alone.serve(listeners))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_with_0(
    config: Config, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    app = TinyApp()
    running = begun(app, config)
    await app.listening.wait()
    said = f"http://127.0.0.1:{app.data_address[1]}, admin on http://127.0.0.1"
    said = f"glm-proxy {__version__} listens on {said}:{app.admin_address[1]}\n"
    os.kill(os.getpid(), number)
    await app.stopping.wait()
    app.drained.set()
    assert await running == 0
    assert app.timeout == 7.0
    assert capfd.readouterr().out == said


async def test_a_second_signal_hurries_and_is_the_exit_code(config: Config) -> None:
    app = TinyApp()
    running = begun(app, config)
    await app.listening.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await app.stopping.wait()
    os.kill(os.getpid(), signal.SIGHUP)  # too late for that, and no reason to end
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 128 + signal.SIGINT


async def test_hup_reads_the_settings_again_and_usr2_changes_nothing(
    config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    silly = config.model_copy(update={"server": Server(body_limit=1)})
    fresh = config.model_copy(update={"server": Server(drain_timeout=3.0)})
    found = iter([ConfigError("f", [Problem("a", "one"), Problem("b", "two")]), silly, fresh])

    def load() -> Config:
        match next(found):
            case ConfigError() as error:
                raise error
            case Config() as other:
                return other
        raise AssertionError("read too often")

    app = TinyApp()
    running = begun(app, config, load)
    await app.listening.wait()
    said = ""
    for expected in ("  a: one\n  b: two\n", "  server.body_limit: is silly\n"):
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            while expected not in said:
                said += capfd.readouterr().err
                await asyncio.sleep(0.01)
    assert (app.used, app.kept) == ([], 1)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: app.used == [fresh])
    os.kill(os.getpid(), signal.SIGTERM)
    await app.stopping.wait()
    app.drained.set()
    assert await running == 0
    assert app.timeout == 3.0


async def test_who_tells_it_to_end_waits_for_no_settings_that_are_read(config: Config) -> None:
    reading, read = threading.Event(), threading.Event()
    times = 0

    def load() -> Config:
        nonlocal times
        times += 1
        reading.set()
        assert read.wait(10)
        return config

    app = TinyApp()
    running = begun(app, config, load)
    await app.listening.wait()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.to_thread(reading.wait, 10)
        for _ in range(50):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await app.stopping.wait()
    finally:
        read.set()
    app.drained.set()
    assert await running == 0
    assert times == 1


async def test_a_request_on_a_kept_connection_is_served_while_the_proxy_stops(
    tmp_path: Path,
) -> None:
    """It may have been sent before the client could know. The answer says that it is the last."""
    async with ScriptedUpstream(script) as upstream:
        settings = {
            "server": {"workers": 1, "drain_timeout": "20s"},
            "endpoints": [{"name": "up", "base_url": upstream.url}],
        }
        async with fleet(tmp_path, settings) as one, RawClient(one.data) as idle:
            async with (
                RawClient(one.data) as kept,
                RawClient(one.data) as fresh,
                RawClient(one.data) as streaming,
            ):
                kept.post(PATH, chat(model="for-0"))
                first = await kept.whole()
                assert first.headers.get("connection") != "close"
                streaming.post(PATH, chat(model="for-1"))
                begun = await streaming.head()
                assert begun.headers.get("connection") != "close"
                one.send(signal.SIGUSR2)
                await until(lambda: "SIGUSR2 has no effect" in one.errors)
                one.send(signal.SIGTERM)
                await until(lambda: "stopping within" in one.errors)
                for client in (kept, fresh):
                    client.post(PATH, chat(model="for-0"))
                    answer = await client.whole()
                    assert answer.clean
                    assert answer.headers["connection"] == "close"
                    assert await client.reader.read() == b""
                # This one was promised to be kept before anybody thought of stopping.
                while await streaming.chunk():
                    pass
                streaming.post(PATH, chat(model="for-0"))
                answer = await streaming.whole()
                assert answer.clean
                assert answer.headers["connection"] == "close"
            assert await idle.reader.read() == b""
            assert await one.ended() == 0
