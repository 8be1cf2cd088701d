"""The two simulated endpoints, in a process of their own: `python -m tests.proof.upstream`.

`north` speaks HTTP/2 over TLS, `south` plain HTTP/1.1. Beside them is a control address:

    POST /down, POST /up      north's connections break and new ones are refused; again as before
    GET /ledger               every request both have seen
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import orjson
import uvloop
from aiohttp import web

from proxy.simulator import Simulator, SimulatorSettings, parse_rule
from proxy.simulator.ledger import Entry
from tests.proof.faults import NOT_UTF8, RULES

_REMEMBERED = 100_000


@click.command()
@click.option("--time-scale", type=float, required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
def command(time_scale: float, folder: Path) -> None:
    """Run both until a signal ends them; `folder` gets the certificate authority."""
    uvloop.run(_run(time_scale, folder))


async def _run(time_scale: float, folder: Path) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    usual: dict[str, Any] = {"profile": "default", "time_scale": time_scale}
    usual["ledger_size"] = _REMEMBERED
    async with AsyncExitStack() as opened:
        north = Simulator(SimulatorSettings(**usual, ca_file=folder / "ca.pem", seed=1))
        south = Simulator(SimulatorSettings(**usual, tls_port=None, http1_only=True, seed=2))
        simulators = {"north": north, "south": south}
        damaged = folder / "damaged.sse"
        damaged.write_bytes(NOT_UTF8)
        for name, simulator in simulators.items():
            await opened.enter_async_context(simulator)
            specs = (spec.replace("@damaged.sse", f"@{damaged}") for spec in RULES[name])
            simulator.faults.rules.extend(map(parse_rule, specs))
        runner = web.AppRunner(_control(simulators), access_log=None)
        await runner.setup()
        opened.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        click.echo(f"on {north.https_url} {south.http_url} http://{host}:{port}")
        sys.stdout.flush()
        await stopped.wait()


def _control(simulators: dict[str, Simulator]) -> web.Application:
    async def down(request: web.Request) -> web.Response:
        await simulators["north"].go_down()
        return web.Response()

    async def up(request: web.Request) -> web.Response:
        await simulators["north"].come_up()
        return web.Response()

    async def ledger(request: web.Request) -> web.Response:
        found = [
            _told(name, entry)
            for name, simulator in simulators.items()
            for entry in simulator.ledger
        ]
        return web.Response(body=orjson.dumps(found), content_type="application/json")

    app = web.Application()
    app.router.add_post("/down", down)
    app.router.add_post("/up", up)
    app.router.add_get("/ledger", ledger)
    return app


def _told(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "endpoint": name,
        "id": entry.header("x-request-id"),
        "path": entry.path,
        "model": entry.model,
        "status": entry.status,
        "fault": entry.fault,
        "cancelled": entry.cancelled is not None,
        "arrived": entry.arrived,
        "closed": entry.finished if entry.cancelled is None else entry.cancelled,
    }


if __name__ == "__main__":
    command()
