"""`glm-proxy models`: what each model name is served by now; switch it while the proxy runs.

A switch is written to the home of state that the settings name. A running proxy knows it a moment
later; one that is started afterwards finds it there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.at_home import UNUSABLE, date, in_home, json_option, span, tell_where, worked
from proxy.cli.settings import actor, config_option, read_settings
from proxy.config import Config, Match, Params, RouteRule, bundled
from proxy.config.yaml_file import read
from proxy.core.policy import capability
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.route import DEFAULT, Candidate, Router
from proxy.core.policy.switches import Switch, Switches, doubt, in_effect
from proxy.state.home import Home, Registry, StateError
from proxy.state.switching import switch, undo

_AS_ASKED = "as asked"


@click.group(invoke_without_command=True)
@json_option
@config_option
@click.pass_context
def command(ctx: click.Context, path: Path | None, *, as_json: bool) -> None:
    """Show what each model name is served by now, or switch it while the proxy runs."""
    ctx.obj = path
    if ctx.invoked_subcommand is None:
        _show(path, as_json=as_json)


@command.command()
@json_option
@config_option
@click.pass_obj
def show(outer: Path | None, path: Path | None, *, as_json: bool) -> None:
    """The switches, then the routes in order: the first that matches a request serves it."""
    _show(path or outer, as_json=as_json)


@command.command("set")
@click.argument("model", metavar="FROM")
@click.argument("to", metavar="TO")
@click.option("--for", "lasting", callback=span, help="Undone after so long: 30m, 2h, 7d.")
@config_option
@click.pass_obj
def set_(outer: Path | None, path: Path | None, model: str, to: str, lasting: float | None) -> None:
    """Let requests for the model FROM be served by TO, from the next one on.

    The rule of FROM decides everything else: endpoints, parameters, timeouts.
    """
    config = read_settings(path or outer)

    async def change(home: Home, _: Registry) -> Switch:
        try:
            return (await switch(home, model, to, lasting, by=actor(), now=time.time()))[0]
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    made = in_home(config, change)
    warning = doubt(to, _records(config))
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{made.model} is served by {made.to}, {_lasting(made)}")
    tell_where(config)


@command.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
@click.pass_obj
def reset(outer: Path | None, path: Path | None, models: tuple[str, ...]) -> None:
    """Undo the switch of each MODEL; without one, all switches."""
    config = read_settings(path or outer)

    async def change(home: Home, registry: Registry) -> int:
        known, now = registry.switches.values(), time.time()
        try:
            return (await undo(home, models or None, known=known, by=actor(), now=now))[0]
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    count = in_home(config, change)
    click.echo(f"{count} switch{'' if count == 1 else 'es'} undone")
    tell_where(config)


# --- what is shown -----------------------------------------------------------------------------


def _show(path: Path | None, *, as_json: bool) -> None:
    """Where the switches cannot be read the settings are shown, and the process ends with 1."""
    config = read_settings(path)
    trouble, switches = None, dict[str, Switch]()
    try:
        switches = dict(asyncio.run(worked(config, _switches)))
    except StateError as error:
        trouble = error
    now = time.time()
    if as_json:
        click.echo(json.dumps(told(config, switches.values(), now), indent=2))
    else:
        Console(highlight=False, markup=False).print(table(config, switches, now))
    if trouble is not None:
        click.echo(f"glm-proxy: no switch is known here: {trouble}", err=True)
        sys.exit(UNUSABLE)


async def _switches(_: Home, registry: Registry) -> dict[str, Switch]:
    return dict(registry.switches)


def told(config: Config, switches: Iterable[Switch], now: float) -> dict[str, object]:
    """The switches in effect and the routes, in JSON's own types; a model of null is as asked."""
    router = Router(config)
    return {
        "switches": [one.told() for one in in_effect(switches, now)],
        "routes": [
            {
                "name": rule.name,
                "match": rule.match.model_dump(mode="json", exclude_defaults=True),
                "candidates": [
                    {"model": one.model or None, "endpoint": one.endpoint.name}
                    for one in router.named(rule.name, "").candidates
                ],
            }
            for rule in _rules(config)
        ],
    }


def table(config: Config, switches: dict[str, Switch], now: float) -> Table:
    """One row per switch, one per route in the order they are tried, one for other requests."""
    router = Router(config, Switches(switches))
    rules = {rule.name: rule for rule in _rules(config)}
    active = router.switches.active(now)
    shown = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("asked for", "served by", "sets", "route", *(("switched",) if active else ())):
        shown.add_column(heading, overflow="fold")
    for one in active:
        route = router.usual(one.model, now)
        switched = f"by {one.by}, {_lasting(one)}"
        sets = _sets(rules[route.name].params)
        row = (one.model, _served(route.candidates), sets, route.name, switched)
        shown.add_row(*map(Text, row))
    for rule in rules.values():
        served = _served(router.named(rule.name, "").candidates)
        shown.add_row(*map(Text, (_asked(rule, config), served, _sets(rule.params), rule.name)))
    return shown


def _rules(config: Config) -> Iterator[RouteRule]:
    """In their order; without a rule that takes everything, the one for the rest is last."""
    yield from config.routes
    if not any(rule.match == Match() for rule in config.routes):
        yield RouteRule(name=DEFAULT)


def _asked(rule: RouteRule, config: Config) -> str:
    match = rule.match
    if rule not in config.routes:
        return "anything else" if config.routes else "any model"
    conditions = [", ".join(match.model) or "any model"]
    if match.path:
        conditions.append("path " + ", ".join(match.path))
    conditions += [f"header {name}: {pattern}" for name, pattern in match.header.items()]
    if match.key:
        conditions.append("key " + ", ".join(match.key))
    if match.stream is not None:
        conditions.append("streaming" if match.stream else "not streaming")
    if match.min_prompt is not None:
        conditions.append(f"at least {match.min_prompt} bytes")
    if match.max_prompt is not None:
        conditions.append(f"at most {match.max_prompt} bytes")
    return "; ".join(conditions)


def _served(candidates: Iterable[Candidate]) -> str:
    """In the order they are tried: `a at cn or global, then b at cn`."""
    steps = []
    for (model, _), equals in groupby(candidates, lambda one: (one.model, one.tier)):
        steps.append(f"{model or _AS_ASKED} at {' or '.join(map(_place, equals))}")
    return ", then ".join(steps)


def _place(candidate: Candidate) -> str:
    keys = "" if candidate.keys is None else f" ({candidate.keys})"
    return candidate.endpoint.name + keys


def _sets(params: Params) -> str:
    forced = [f"{name}={value}" for name, value in params.force.items()]
    filled = [f"{name}={value} if not given" for name, value in params.fill.items()]
    return ", ".join(forced + filled)


def _lasting(switched: Switch) -> str:
    return "until it is reset" if switched.until is None else f"until {date(switched.until)}"


def _records(config: Config) -> Capabilities:
    return capability.load(read(config.models_file or bundled("models.yaml")).data)
