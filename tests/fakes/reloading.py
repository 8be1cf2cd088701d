"""A running proxy whose settings are changed while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import yaml

from proxy.app import App
from proxy.config import load
from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.running import running
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"


def event(text: str) -> bytes:
    """A piece of an answer."""
    piece = {"id": "1", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: %b\n\n" % orjson.dumps(piece)


class Told:
    """An upstream's script: a first piece at once, the end when the test says so.

    A request for a model that begins with `now` is answered whole at once.
    """

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        call.head()
        call.send(event("first"))
        if not model_of(call).startswith("now"):
            await self.may_end.wait()
        call.send(event("last"))
        call.send(DONE)
        call.finish()


def model_of(call: Call) -> str:
    """The model that the upstream was asked for."""
    return str(orjson.loads(call.body)["model"]) if call.body else ""


def endpoint(upstream: ScriptedUpstream, folder: Path, name: str = "up", **more: Any) -> Any:
    """The upstream as the settings name it."""
    said = {"name": name, "base_url": upstream.url, **more}
    if upstream.url.startswith("https"):
        place = folder / name
        place.mkdir(exist_ok=True)
        said["ca_file"] = str(upstream.write_ca(place))
    return said


class Reloading:
    """A proxy and its settings."""

    def __init__(self, app: App, path: Path, settings: dict[str, Any]) -> None:
        self.app = app
        self.path = path
        self.settings = settings
        """Those in the file."""
        app.on_reload = self.reread

    async def to(self, **changes: Any) -> None:
        """Change top-level settings; None takes one away. Raises CannotReload, ConfigError."""
        merged = {**self.settings, **changes}
        self.settings = {name: value for name, value in merged.items() if value is not None}
        self.path.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        await self.reread()

    async def reread(self) -> None:
        """Read the file, and use what it says. Raises CannotReload, ConfigError."""
        config = await asyncio.to_thread(load, self.path, {})
        await self.app.reload(config)


@asynccontextmanager
async def reloading(folder: Path, **settings: Any) -> AsyncIterator[Reloading]:
    """A proxy with `settings`, on free ports."""
    base = {
        "server": {"port": 0, "drain_timeout": 0},
        "admin": {"port": 0},
        "log": {"format": "off"},
    }
    async with running(folder, settings) as app:
        yield Reloading(app, folder / "proxy.yaml", base | settings)


@asynccontextmanager
async def streaming(app: App, model: str = "glm-4.6", *headers: str) -> AsyncIterator[RawClient]:
    """A client that has begun to read its answer."""
    async with RawClient(app.data_address) as client:
        client.post(CHAT, chat(model), *headers)
        answer = await client.head()
        assert answer.status == 200, answer
        assert b"first" in await client.chunk()
        yield client


async def rest(client: RawClient) -> Answer:
    """What is left of the client's answer."""
    answer = Answer(200)
    try:
        while data := await client.chunk():
            answer.chunks.append(data)
        answer.clean = True
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    return answer
