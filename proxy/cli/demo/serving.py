"""`glm-proxy demo --serve`: the simulator and the proxy, running, with lines to try."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import click

from proxy.cli.demo.children import Child, Children, NotRunning
from proxy.cli.demo.settings import demo_settings, write_secret, write_settings

_TRY = """
Look: {admin}/ is the live page. Token of its playground: {token}

Try it, in another terminal:

  curl -N -i {url}/v1/chat/completions -H 'Authorization: Bearer any' -d '
    {{"model": "glm-4.6", "stream": true, "messages": [{{"role": "user", "content": "hello"}}]}}'

  curl -s {admin}/metrics | grep first_content

  KEY=any .venv/bin/glm-proxy bench {url}/v1 --against {plain}/api/paas/v4 \\
    --api-key env:KEY --model glm-4.6 --prompt hello --requests 5

or in Python:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="any")
  messages = [{{"role": "user", "content": "hello"}}]
  for chunk in client.chat.completions.create(model="glm-4.6", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

glm-4.6 and glm-4.5 are served by glm-4-flash here, as config/demo.yaml says; every other model as
asked: try glm-4.7, which thinks.

Ctrl-C ends both. One line for each request:
"""


async def serve(time_scale: float, seed: int) -> int:
    """Until it is cancelled. Raises NotRunning when one of the two ends by itself."""
    url = urlsplit(demo_settings()["endpoints"][0]["base_url"])
    with tempfile.TemporaryDirectory(prefix="glm-proxy-demo-") as name:
        folder = Path(name)
        async with Children(None) as children:
            listen = ("--tls-port", url.port, "--ca-file", folder / "ca.pem")
            pace = ("--time-scale", time_scale, "--seed", seed)
            simulator = await children.start("the simulator", "simulate", *listen, *pace)
            plain = await simulator.says(r"on (http://\S+)")
            upstream = await simulator.says(r"on (https://\S+),")
            token = secrets.token_urlsafe(12)
            write_secret(folder / "token", token)
            write_secret(folder / "key", "any")  # so that the playground needs none
            endpoint = {
                "name": "simulator",
                "base_url": upstream,
                "ca_file": f"{folder}/ca.pem",
                "api_key": f"file:{folder}/key",
            }
            operator = {"token": f"file:{folder}/token"}
            settings = write_settings(folder / "demo.yaml", "demo.yaml", endpoint, admin=operator)
            proxy = await children.start("the proxy", "serve", "--config", settings)
            listening = await proxy.says(r"listens on (http://\S+, admin on http://\S+)")
            data, admin = listening.split(", admin on ")
            click.echo(f"proxy on {data}, admin on {admin}")
            click.echo(f"SIMULATED GLM on {upstream} and {plain}")
            click.echo(_TRY.format(url=data, admin=admin, plain=plain, token=token))
            await _pass_on(proxy, simulator)
    return 1


async def _pass_on(proxy: Child, simulator: Child) -> None:
    """The proxy's access log, until one of both ends. Raises NotRunning."""
    log = asyncio.ensure_future(_copy(proxy))
    ended = asyncio.ensure_future(simulator.process.wait())
    try:
        await asyncio.wait({log, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        log.cancel()
        ended.cancel()
    raise NotRunning(f"{simulator.name if ended.done() else proxy.name} has ended")


async def _copy(proxy: Child) -> None:
    assert proxy.process.stdout is not None
    async for line in proxy.process.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
