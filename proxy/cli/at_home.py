"""What commands have in common that look at the home of state, or change something in it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

import click

from proxy.cli.state import home_of, opened
from proxy.config import Config
from proxy.config.units import SPAN, Quantity
from proxy.state.home import Home, Registry, StateError

T = TypeVar("T")

UNUSABLE: Final = 1
"""Exit code where the home of state cannot be used, or has not what is asked for."""

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, on standard output.")


def in_home(config: Config, work: Callable[[Home, Registry], Awaitable[T]]) -> T:
    """`work` in the home of the settings; where it cannot be used, the process ends."""
    try:
        return asyncio.run(worked(config, work))
    except StateError as error:
        click.echo(f"glm-proxy: {error}", err=True)
        sys.exit(UNUSABLE)


async def worked(config: Config, work: Callable[[Home, Registry], Awaitable[T]]) -> T:
    """`work` in the home of the settings. Raises StateError."""
    async with opened(config) as (home, registry):
        if home.kind == "memory":
            raise StateError(
                "with state: memory only the running proxy itself has keys and switches;"
                " use its admin API, or name another home in the settings"
            )
        return await work(home, registry)


def tell_where(config: Config) -> None:
    """Where it was changed: a proxy with other settings, or of another user, may look elsewhere."""
    click.echo(f"kept in {home_of(config).url}", err=True)


def span(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """An option's callback: `30d`, `12h` as seconds."""
    if value is None:
        return None
    try:
        return Quantity(SPAN).read(value, strict=True)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def span_or_zero(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The same where 0 has a meaning."""
    return 0.0 if value in ("0", "0s") else span(ctx, param, value)


def date(at: float) -> str:
    """Unix seconds, for a person."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
