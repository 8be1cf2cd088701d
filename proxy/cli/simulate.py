"""`glm-proxy simulate`: a GLM on this machine, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from proxy.simulator import (
    PROFILES,
    Fault,
    FaultRule,
    MissingExtra,
    Simulator,
    SimulatorSettings,
    parse_rule,
)

PORT = click.IntRange(0, 65535)
COUNT = click.IntRange(min=1)
WAIT = click.FloatRange(min=0)
_REMEMBERED = 100


def _rules(
    ctx: click.Context, param: click.Parameter | None, value: tuple[str, ...]
) -> list[FaultRule]:
    try:
        return [parse_rule(spec) for spec in value]
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from None


def _profiles() -> str:
    return " ".join(f"{name}: {profile.about}." for name, profile in PROFILES.items())


def _fault_fields() -> str:
    own = ("times", "every", "after", "path", "model")
    return f"which requests: {', '.join(own)}; what: {', '.join(Fault.model_fields)}."


@click.command(epilog=f"Profiles. {_profiles()}\n\nFields of a fault; {_fault_fields()}")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="default", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8001, show_default=True, help="Plain HTTP; 0: any.")
@click.option("--tls-port", type=PORT, default=8443, show_default=True, help="TLS; 0: any.")
@click.option("--no-tls", is_flag=True, help="Plain HTTP only.")
@click.option("--http1-only", is_flag=True, help="No HTTP/2.")
@click.option(
    "--ca-file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the CA's certificate here: endpoints[].ca_file of the proxy.",
)
@click.option("--name", "names", multiple=True, help="Another name of this host; repeatable.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--reproducible", is_flag=True, help="Ids and times come from the seed too.")
@click.option("--time-scale", type=WAIT, default=1.0, show_default=True, help="Of every wait.")
@click.option("--tokens", type=click.IntRange(min=0), help="Length of every answer.")
@click.option("--gap", type=WAIT, help="Seconds between tokens.")
@click.option(
    "--in-flight",
    type=click.IntRange(min=0),
    help="Requests at a time per key and model, 0: no limit. Default: as the profile has it.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_rules,
    metavar="SPEC",
    help="What goes wrong, e.g. code=1302,every=3 or cut_at_event=5,model=glm-4.6; repeatable.",
)
@click.option("--goaway-after", type=COUNT, help="Requests per HTTP/2 connection.")
@click.option(
    "--max-streams",
    "max_concurrent_streams",
    type=COUNT,
    default=128,
    show_default=True,
    help="Requests at a time per HTTP/2 connection.",
)
@click.option("--keepalive-timeout", type=WAIT, help="Seconds until an idle connection closes.")
def command(no_tls: bool, faults: list[FaultRule], **options: Any) -> None:
    """Run a GLM on this machine.

    It speaks the API below /api/paas/v4, /api/coding/paas/v4 and /api/anthropic, takes any key
    that does not begin with "bad", and answers with canned text at the pace of a profile.
    Exit codes: 0 stopped by a signal, 1 cannot run, 2 wrong arguments.
    """
    if no_tls:
        options["tls_port"] = None
    settings = SimulatorSettings(**options, ledger_size=_REMEMBERED)
    sys.exit(uvloop.run(_run(settings, faults)))


async def _run(settings: SimulatorSettings, faults: list[FaultRule]) -> int:
    """Until SIGINT or SIGTERM. The exit code."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with Simulator(settings) as simulator:
            simulator.faults.rules.extend(faults)
            _tell(simulator)
            await stopped.wait()
    except (OSError, MissingExtra) as error:
        click.echo(f"glm-proxy simulate: {error}", err=True)
        return 1
    return 0


def _tell(simulator: Simulator) -> None:
    profile = simulator.settings.profile
    click.echo(f"simulated GLM, profile {profile}, listens on {simulator.http_url}")
    if simulator.https_url is not None:
        http2 = "" if simulator.settings.http1_only else " and HTTP/2"
        click.echo(f"with TLS{http2} on {simulator.https_url}, its CA is in {simulator.ca_file}")
    sys.stdout.flush()
