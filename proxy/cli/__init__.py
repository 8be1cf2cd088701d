"""The command line: one module per command, loaded when it is called.

So a command that lacks its optional packages, or is slow to import, costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import click

from proxy import __version__


def _serve() -> click.Command:
    from proxy.cli.serve import command

    return command


def _check() -> click.Command:
    from proxy.cli.check import command

    return command


def _models() -> click.Command:
    from proxy.cli.models import command

    return command


def _keys() -> click.Command:
    from proxy.cli.keys import command

    return command


def _metrics() -> click.Command:
    from proxy.cli.metrics import command

    return command


def _simulate() -> click.Command:
    from proxy.cli.simulate import command

    return command


def _bench() -> click.Command:
    from proxy.cli.bench import command

    return command


def _demo() -> click.Command:
    from proxy.cli.demo import command

    return command


_COMMANDS: Final = MappingProxyType(
    {
        "serve": ("Run the proxy.", _serve),
        "check": ("Check a settings file and show the effective settings.", _check),
        "models": ("Show what each model is served by now; switch models.", _models),
        "keys": ("Make, list, revoke and rotate keys for callers.", _keys),
        "metrics": ("Print the table of all metrics.", _metrics),
        "simulate": ("Run a GLM on this machine.", _simulate),
        "demo": ("The same chat past the proxy and through it.", _demo),
        "bench": ("Measure the stages of the first token.", _bench),
    }
)


class _Commands(click.Group):
    """The commands, from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return _loaded(cmd_name, _COMMANDS[cmd_name][1])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would import every command for its first line of help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in _COMMANDS.items()])


def _loaded(name: str, load: Callable[[], click.Command]) -> click.Command:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "proxy":
            raise
        raise click.ClickException(
            f"{name} needs the Python package {missing!r}, which is not installed;"
            " pip install '.[simulator]' in this project's folder has what simulate needs"
        ) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glm-proxy")
def group() -> None:
    """A streaming reverse proxy for the GLM API."""
