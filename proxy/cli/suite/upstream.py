"""The simulated service of a suite, in a process of its own: `python -m proxy.cli.suite.upstream`.

Beside the API it has a control address on the loopback interface, for the suite alone:

    POST /profile?name=slow   from now on the times of this profile
    POST /down, POST /up      every connection breaks and new ones are refused; again as before
    GET /arrivals             every request so far: when it came (monotonic), whose it was
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
import orjson
import uvloop
from aiohttp import web

from proxy.simulator import PROFILES, MissingExtra, Simulator, SimulatorSettings

_REMEMBERED = 200_000


@click.command()
@click.option("--profile", type=click.Choice(list(PROFILES)), required=True)
@click.option("--time-scale", type=float, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--ca-file", type=click.Path(path_type=Path), required=True)
def command(profile: str, time_scale: float, seed: int, ca_file: Path) -> None:
    """Run the simulated service of a suite until a signal ends it."""
    settings = SimulatorSettings(
        profile=profile, time_scale=time_scale, seed=seed, ca_file=ca_file, ledger_size=_REMEMBERED
    )
    try:
        uvloop.run(_run(settings))
    except (OSError, MissingExtra) as error:
        click.echo(error, err=True)
        sys.exit(1)


async def _run(settings: SimulatorSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as opened:
        simulator = await opened.enter_async_context(Simulator(settings))
        runner = web.AppRunner(_control(simulator), access_log=None)
        await runner.setup()
        opened.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        click.echo(f"service on {simulator.https_url}, control on http://{host}:{port}")
        sys.stdout.flush()
        await stopped.wait()


def _control(simulator: Simulator) -> web.Application:
    async def profile(request: web.Request) -> web.Response:
        simulator.use(request.query["name"])
        return web.Response()

    async def down(request: web.Request) -> web.Response:
        await simulator.go_down()
        return web.Response()

    async def up(request: web.Request) -> web.Response:
        await simulator.come_up()
        return web.Response()

    async def arrivals(request: web.Request) -> web.Response:
        found = [
            (entry.arrived, _whose(entry.header("authorization"))) for entry in simulator.ledger
        ]
        return web.Response(body=orjson.dumps(found), content_type="application/json")

    app = web.Application()
    app.router.add_post("/profile", profile)
    app.router.add_post("/down", down)
    app.router.add_post("/up", up)
    app.router.add_get("/arrivals", arrivals)
    return app


def _whose(authorization: str | None) -> str:
    return (authorization or "").removeprefix("Bearer ")


if __name__ == "__main__":
    command()
