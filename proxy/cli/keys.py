"""`glm-proxy keys`: the virtual keys of callers, in the home of state that the settings name.

What is changed here is known to a running proxy at once, or as soon as its home tells it. A token
stands alone on standard output, so that a script can take it; it is shown this one time.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.at_home import date, in_home, json_option, span_or_zero, tell_where
from proxy.cli.settings import actor, config_option, read_settings
from proxy.config import Allowance, Config
from proxy.config.units import SPAN, Quantity
from proxy.core.policy.access import Made, VirtualKey
from proxy.state import issuing
from proxy.state.home import Home, Registry

_COUNT: Final = click.IntRange(1, 10**12)


@click.group()
def command() -> None:
    """Keys that this proxy gives to callers (`access: keys`).

    A token is shown once, when it is made; only an HMAC of it is kept.
    """


@command.command()
@click.argument("name")
@click.option("--route", "routes", multiple=True, metavar="P", help="Only routes of this name.")
@click.option("--model", "models", multiple=True, metavar="P", help="Only models of this name.")
@click.option("--expires", callback=span_or_zero, help="After so long: 12h, 30d. Default: never.")
@click.option("--requests-per-minute", type=_COUNT)
@click.option("--tokens-per-minute", type=_COUNT)
@click.option("--concurrent", type=_COUNT)
@click.option("--tokens-per-day", type=_COUNT)
@json_option
@config_option
def create(
    name: str,
    routes: tuple[str, ...],
    models: tuple[str, ...],
    expires: float | None,
    as_json: bool,
    path: Path | None,
    **limits: int | None,
) -> None:
    """Make a key for NAME and print its token.

    --route and --model are shell-style patterns and may be given several times. A key for some
    models only may not use paths that are passed through, since their models are not looked at.
    """
    config, now = read_settings(path), time.time()
    if config.access == "open":
        click.echo("warning: access is open: nobody is asked for a key", err=True)

    async def change(home: Home, _: Registry) -> Made:
        try:
            made = await issuing.create(
                home,
                name,
                routes=routes,
                models=models,
                lasting=expires,
                allowance=Allowance(**limits),
                by=actor(),
                now=now,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return made[0]

    _tell(in_home(config, change), config, now, as_json=as_json, before=None)


@command.command("list")
@json_option
@config_option
def show(as_json: bool, path: Path | None) -> None:
    """All keys there are, revoked and expired ones too."""
    keys = in_home(read_settings(path), _all)
    now = time.time()
    if as_json:
        click.echo(json.dumps([key.told(now) for key in keys], indent=2))
        return
    Console(highlight=False, markup=False).print(table(keys, now))


@command.command()
@click.argument("key_id", metavar="ID")
@json_option
@config_option
def revoke(key_id: str, as_json: bool, path: Path | None) -> None:
    """End a key: from the next request on. What runs goes on."""
    config, now = read_settings(path), time.time()

    async def change(home: Home, registry: Registry) -> VirtualKey:
        return (await issuing.revoke(home, _one(registry, key_id), by=actor(), now=now))[0]

    key = in_home(config, change)
    if as_json:
        click.echo(json.dumps(key.told(now), indent=2))
    else:
        click.echo(f"{key.label} is revoked", err=True)
        tell_where(config)


@command.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap",
    callback=span_or_zero,
    default=str(Quantity(SPAN).text(issuing.OVERLAP)),
    show_default=True,
    help="How long the token before is still good.",
)
@json_option
@config_option
def rotate(key_id: str, overlap: float, as_json: bool, path: Path | None) -> None:
    """Print a new token for a key.

    The token before it is good until the overlap is over; one that was being replaced already ends
    now.
    """
    config, now = read_settings(path), time.time()

    async def change(home: Home, registry: Registry) -> Made:
        key = _one(registry, key_id)
        try:
            return (await issuing.rotate(home, key, overlap, by=actor(), now=now))[0]
        except ValueError as error:
            raise click.ClickException(str(error)) from None

    _tell(in_home(config, change), config, now, as_json=as_json, before=now + overlap)


def table(keys: list[VirtualKey], now: float) -> Table:
    """One row per key, the oldest first."""
    shown = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "name", "state", "created", "expires", "routes", "models", "limits"):
        shown.add_column(heading, overflow="fold", no_wrap=heading == "id")
    for key in keys:
        limits = key.allowance.model_dump(exclude_none=True)
        row = (
            key.id,
            key.name,
            key.state(now) + (" (rotating)" if key.living(now) > 1 else ""),
            date(key.created),
            "never" if key.expires is None else date(key.expires),
            ", ".join(key.routes) or "all",
            ", ".join(key.models) or "all",
            ", ".join(f"{name} {count}" for name, count in limits.items()) or "of the settings",
        )
        shown.add_row(*map(Text, row))
    return shown


async def _all(home: Home, registry: Registry) -> list[VirtualKey]:
    return issuing.in_order(registry.keys)


def _one(registry: Registry, key_id: str) -> VirtualKey:
    key = registry.keys.get(key_id)
    if key is None:
        raise click.ClickException("there is no key of this id; see glm-proxy keys list")
    return key


def _tell(made: Made, config: Config, now: float, *, as_json: bool, before: float | None) -> None:
    if as_json:
        click.echo(json.dumps({**made.key.told(now), "token": made.token}, indent=2))
        return
    click.echo(made.token)
    text = f"key {made.key.label}: this token is shown once; keep it now"
    if before is not None:
        text += f". The one before is good until {date(before)}"
    click.echo(text, err=True)
    tell_where(config)
