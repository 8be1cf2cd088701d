"""`glm-proxy models`: what each model name is served by, as the settings say."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.settings import config_option, read_settings
from proxy.config import Candidate, Config, Match, Params, RouteRule


@click.group(invoke_without_command=True)
@config_option
@click.pass_context
def command(ctx: click.Context, path: Path | None) -> None:
    """Show what each model name is served by."""
    ctx.obj = path
    if ctx.invoked_subcommand is None:
        _show(path)


@command.command()
@config_option
@click.pass_obj
def show(outer: Path | None, path: Path | None) -> None:
    """The routes in order: the first that matches a request serves it."""
    _show(path or outer)


def _show(path: Path | None) -> None:
    Console(highlight=False, markup=False).print(table(read_settings(path)))


def table(config: Config) -> Table:
    """One row per route, in the order they are tried, and one for all other requests."""
    shown = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("asked for", "served by", "sets", "route"):
        shown.add_column(heading, overflow="fold")
    names = [endpoint.name for endpoint in config.endpoints]
    for rule in config.routes:
        row = (_asked(rule.match), _served(rule, names), _sets(rule.params), rule.name)
        shown.add_row(*map(Text, row))
    if not any(rule.match == Match() for rule in config.routes):
        other = "anything else" if config.routes else "any model"
        everywhere = _candidate(Candidate(), names)
        shown.add_row(*map(Text, (other, everywhere, "", "default")))
    return shown


def _asked(match: Match) -> str:
    conditions = [", ".join(match.model) or "any model"]
    if match.path:
        conditions.append("path " + ", ".join(match.path))
    conditions += [f"header {name}: {pattern}" for name, pattern in match.header.items()]
    if match.stream is not None:
        conditions.append("streaming" if match.stream else "not streaming")
    if match.min_prompt is not None:
        conditions.append(f"at least {match.min_prompt} bytes")
    if match.max_prompt is not None:
        conditions.append(f"at most {match.max_prompt} bytes")
    return "; ".join(conditions)


def _served(rule: RouteRule, names: list[str]) -> str:
    return _candidate(rule.candidates[0], names)


def _candidate(candidate: Candidate, names: list[str]) -> str:
    return f"{candidate.model or 'as asked'} at {candidate.endpoint or names[0]}"


def _sets(params: Params) -> str:
    forced = [f"{name}={value}" for name, value in params.force.items()]
    filled = [f"{name}={value} if not given" for name, value in params.fill.items()]
    return ", ".join(forced + filled)
