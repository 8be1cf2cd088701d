"""`glm-proxy serve`: run the proxy until a signal, then let running exchanges finish."""

from __future__ import annotations

import asyncio
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

import click
import uvloop
from aiohttp import http_parser

from proxy import __version__
from proxy.cli.settings import config_option, read_settings
from proxy.config import Config, Log
from proxy.net.listen import CannotListen
from proxy.observe.app_log import configure_logging
from proxy.observe.folder import CannotShare
from proxy.observe.lines import LineWriter

PORT = click.IntRange(0, 65535)
_LAST_LINES = 1.0
"""Seconds to wait for the last log lines to be written."""


class App(Protocol):
    """What is run here: `proxy.app.App`."""

    @property
    def data_address(self) -> tuple[str, int]: ...

    @property
    def admin_address(self) -> tuple[str, int]: ...

    async def start(self) -> None:
        """Listen. Raises CannotListen or CannotShare, and has then closed what it had opened."""

    async def stop(self, timeout: float) -> None:
        """Take no new exchange, let running ones finish for `timeout` seconds, close all."""


@click.command()
@config_option
@click.option("--host", help="Instead of server.host.")
@click.option("--port", type=PORT, help="Instead of server.port; 0 takes any free one.")
@click.option("--admin-port", type=PORT, help="Instead of admin.port; 0 takes any free one.")
def command(path: Path | None, host: str | None, port: int | None, admin_port: int | None) -> None:
    """Run the proxy.

    SIGTERM or SIGINT lets running exchanges finish within server.drain_timeout; a second one ends
    the process at once. Exit codes: 0 stopped, 1 cannot run, 2 wrong settings.
    """
    _hold_standard_streams()
    given = {"server.host": host, "server.port": port, "admin.port": admin_port}
    config = read_settings(
        path, {name: value for name, value in given.items() if value is not None}
    )
    _require_c_parser()
    if config.tracing != "off":
        _require_otel()
    # Only now: it is the slowest import, and wrong settings are told without it.
    from proxy.app import App as ProxyApp

    _keep_out_of_collections()
    with _own_log(config.log):
        code = uvloop.run(serve(ProxyApp(config), config))
    sys.exit(code)


async def serve(app: App, config: Config) -> int:
    """Run `app` until a signal has stopped it. The exit code."""
    with _signals() as received:
        try:
            await app.start()
        except (CannotListen, CannotShare) as error:
            click.echo(f"glm-proxy: {error}", err=True)
            return 1
        data, admin = _url(app.data_address), _url(app.admin_address)
        _say(f"glm-proxy {__version__} listens on {data}, admin on {admin}", sys.stdout)
        await received.get()
        return await _drain(app, config.server.drain_timeout, received)


def _hold_standard_streams() -> None:
    """One that was closed by whoever started us becomes the null device, so that no socket gets its
    number, and with it the log."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it lives as long as we do
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _keep_out_of_collections() -> None:
    """What was made up to now stays: the garbage collector need not look at it again.

    A full collection stops every stream; without the modules and settings it takes half as long.
    """
    gc.collect()
    gc.freeze()


def _say(text: str, stream: TextIO) -> None:
    """A line for the operator. Where it cannot be written (a full disk), the proxy goes on."""
    with suppress(OSError):
        # Unbuffered: what could not be written must not be tried again when the process ends.
        os.write(stream.fileno(), f"{text}\n".encode())


async def _drain(app: App, timeout: float, received: asyncio.Queue[signal.Signals]) -> int:
    _say(f"stopping within {timeout:g}s; a second signal ends at once", sys.stderr)
    stopping = asyncio.ensure_future(app.stop(timeout))
    again = asyncio.ensure_future(received.get())
    try:
        await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            stopping.result()
            return 0
        # As a shell reports a process that a signal ended.
        return 128 + again.result()
    finally:
        stopping.cancel()
        again.cancel()


@contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """SIGTERM and SIGINT as they come, instead of their default effect."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    caught = (signal.SIGTERM, signal.SIGINT)
    for number in caught:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


@contextmanager
def _own_log(settings: Log) -> Iterator[None]:
    """The proxy's own messages on standard error; `format: off` is about the access log only."""
    lines = LineWriter(io.FileIO(2, "wb", closefd=False))
    configure_logging(settings.level, "text" if settings.format == "text" else "json", lines)
    try:
        yield
    finally:
        lines.close(_LAST_LINES)


def _require_c_parser() -> None:
    """aiohttp's Python parser accepts malformed requests that its C parser refuses."""
    if http_parser.HttpRequestParser.__module__ == "aiohttp._http_parser":
        return
    raise click.ClickException(
        "aiohttp runs without its C parser, which is needed to refuse malformed requests;"
        " install aiohttp from a wheel and unset AIOHTTP_NO_EXTENSIONS"
    )


def _require_otel() -> None:
    """OpenTelemetry without what it would take from the environment: the settings say it all."""
    ignored = sorted(name for name in os.environ if name.startswith("OTEL_"))
    for name in ignored:
        del os.environ[name]
    if ignored:
        names = ", ".join(ignored)
        click.echo(f"warning: no effect on tracing, which the settings are for: {names}", err=True)
    try:
        importlib.import_module("proxy.observe.tracing")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "proxy":
            raise
        raise click.ClickException(
            f"tracing needs the Python package {missing!r}, which is not installed;"
            " pip install '.[otel]' in its folder, or set tracing: off"
        ) from None


def _url(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
