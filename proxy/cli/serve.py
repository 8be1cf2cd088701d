"""`glm-proxy serve`: run the proxy until a signal, then let running exchanges finish."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop
from aiohttp import http_parser

from proxy.cli.settings import WRONG_SETTINGS, config_option, load_settings, read_settings
from proxy.cli.state import home_of
from proxy.config import Config, ConfigError, exposed
from proxy.net.door import raise_file_limit
from proxy.net.listen import CannotListen, Listeners
from proxy.observe.app_log import log_to, own_log
from proxy.observe.folder import CannotShare
from proxy.state.home import StateError
from proxy.workers import activation
from proxy.workers.activation import Systemd, WrongSocket
from proxy.workers.channel import FOLDER, Channel
from proxy.workers.cpus import usable
from proxy.workers.drain import KEPT
from proxy.workers.folder import RunFolder
from proxy.workers.words import ERROR, Direct, say

if TYPE_CHECKING:
    from proxy.app import App

PORT = click.IntRange(0, 65535)


@click.command()
@config_option
@click.option("--host", help="Instead of server.host.")
@click.option("--port", type=PORT, help="Instead of server.port; 0 takes any free one.")
@click.option("--admin-port", type=PORT, help="Instead of admin.port; 0 takes any free one.")
def command(path: Path | None, host: str | None, port: int | None, admin_port: int | None) -> None:
    """Run the proxy.

    SIGTERM or SIGINT lets running exchanges finish within server.drain_timeout; a second one tells
    their clients and ends within two seconds. SIGHUP reads the settings again. SIGUSR2, with
    server.workers, starts the program anew on the same sockets. Exit codes: 0 stopped, 1 cannot
    run, 2 wrong settings, 128 + N ended by a second signal N.
    """
    _hold_standard_streams()
    # A dump of our memory would hold keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environ = dict(os.environ)
    for name in activation.VARIABLES:  # they are for this process, and not for its children
        os.environ.pop(name, None)
    given: dict[str, object] = {"server.host": host, "server.port": port, "admin.port": admin_port}
    overrides = {name: value for name, value in given.items() if value is not None}
    config = read_settings(path, overrides)
    _require_c_parser()
    if config.tracing != "off":
        _require_otel()
    _require_home(config)
    raise_file_limit()
    try:
        # From now on clients may be waiting, and nothing ends them but an orderly end.
        signal.pthread_sigmask(signal.SIG_BLOCK, KEPT)
        inherited = activation.inherited(environ, os.getpid())
        server, admin = config.server, config.admin
        listeners = Listeners.open((server.host, server.port), (admin.host, admin.port), inherited)
        if open_to_all := list(exposed(config, *listeners.hosts)):
            click.echo(ConfigError("the listeners", open_to_all), err=True)
            sys.exit(WRONG_SETTINGS)
        old = inherited.get(activation.UPGRADE)
        serving = _Serving(path, overrides, environ, Channel(old) if old else None)
        code = serving.run(config, listeners)
    except (CannotListen, CannotShare, WrongSocket) as error:
        say(f"glm-proxy: {error}", ERROR)
        code = 1
    sys.exit(code)


class _Serving:
    """The two ways to run, and what they share."""

    def __init__(
        self,
        path: Path | None,
        overrides: dict[str, object],
        environ: dict[str, str],
        old: Channel | None,
    ) -> None:
        self._load = partial(load_settings, path, overrides)
        self._environ = environ
        self._systemd = Systemd(environ)
        self._old = old

    def run(self, config: Config, listeners: Listeners) -> int:
        """The exit code. Raises CannotShare."""
        return (self._alone if config.server.workers == 1 else self._many)(config, listeners)

    def _alone(self, config: Config, listeners: Listeners) -> int:
        from proxy.workers.alone import Alone

        app = _made(config)
        _keep_out_of_collections()
        with own_log(config.log):
            alone = Alone(app, config, self._load, self._systemd, self._old)
            return uvloop.run(alone.serve(listeners))

    def _many(self, config: Config, listeners: Listeners) -> int:
        # Everything that a worker needs is here before the fork.
        from proxy.workers.master import Master
        from proxy.workers.successor import Command

        folder = self._folder(config)
        fitted = _same if folder is None else folder.used_by
        log_to(Direct(ERROR), config.log)
        count = config.server.workers
        try:
            _keep_out_of_collections()
            return Master(
                fitted(config),
                usable() if count == "auto" else count,
                listeners,
                make=_made,
                load=lambda: fitted(self._load()),
                command=Command.own(self._environ),
                systemd=self._systemd,
                folder=folder,
                old=self._old,
            ).run()
        finally:
            if folder is not None:
                folder.remove()

    def _folder(self, config: Config) -> RunFolder | None:
        if not config.metrics.enabled or config.metrics.folder is not None:
            return None
        if self._old is not None and (message := self._old.wait(FOLDER)) and message.data:
            return RunFolder(Path(os.fsdecode(message.data)), ours=False)
        named = self._environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return RunFolder.make(Path(named) if named else None)


def _made(config: Config) -> App:
    # Only now: it is the slowest import, and wrong settings are told without it.
    from proxy.app import App
    from proxy.state.open import make_home

    return App(config, make_home(home_of(config), strict=config.access == "keys"))


def _same(config: Config) -> Config:
    return config


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


def _require_c_parser() -> None:
    """aiohttp's Python parser accepts malformed requests that its C parser refuses."""
    if http_parser.HttpRequestParser.__module__ == "aiohttp._http_parser":
        return
    raise click.ClickException(
        "aiohttp runs without its C parser, which is needed to refuse malformed requests;"
        " install aiohttp from a wheel and unset AIOHTTP_NO_EXTENSIONS"
    )


def _require_home(config: Config) -> None:
    """Where state is kept may need a package that is not installed."""
    from proxy.state.open import make_home

    try:
        make_home(home_of(config))
    except StateError as error:
        raise click.ClickException(str(error)) from None


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
