"""`glm-proxy demo`: the same chat past the proxy and through it, and where the seconds went."""

from __future__ import annotations

import sys

import click

from proxy.cli.demo import language_model, serving, simulated
from proxy.cli.demo.ask import require_sdk
from proxy.cli.demo.children import NotRunning, run


@click.command()
@click.option("--llm", is_flag=True, help="Before a small real language model.")
@click.option("--serve", is_flag=True, help="Start the simulator and the proxy, and let them run.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Each way.")
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Of every wait of the simulator.",
)
@click.option("--seed", type=int, default=44, show_default=True, help="Of the simulator.")
def command(llm: bool, serve: bool, runs: int, time_scale: float, seed: int) -> None:
    """Ask the same past the proxy and through it, and compare the stages.

    The upstream is simulated unless --llm is given; either way it runs on this machine. Exit
    codes: 0 shown to the end (--serve: stopped by a signal), 1 failed, 2 wrong arguments.
    """
    if llm and serve:
        raise click.UsageError("give --llm or --serve, not both")
    try:
        if not serve:
            require_sdk()
        if serve:
            code = run(serving.serve(time_scale, seed), stopped=0)
        elif llm:
            code = run(language_model.show(runs))
        else:
            code = run(simulated.show(runs, time_scale, seed))
    except NotRunning as error:
        click.echo(f"glm-proxy demo: {error}", err=True)
        if serve:
            ports = "8080, 9090 (Prometheus' own default too), 8443 and 8001"
            click.echo(f"It listens on the ports {ports}: end what uses them.", err=True)
        code = 1
    sys.exit(code)
