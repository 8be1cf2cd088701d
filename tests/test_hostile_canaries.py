"""Secrets in every place of a request, a hostile upstream, all logs on: nowhere is one told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest
from redis.asyncio import Redis

from tests.fakes.canaries import Fuzz, Lookout, canary
from tests.fakes.collector import Collector, collecting
from tests.fakes.serving import Served, serving
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.state.servers import running_redis

SEED: Final = 20261123
AT_ONCE: Final = 8
SSE: Final = "text/event-stream"
EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
JSON: Final = "application/json"


def messages_of(body: bytes) -> bytes:
    """Some of what a request asks, so that it may be quoted in JSON."""
    with contextlib.suppress(orjson.JSONDecodeError, TypeError, KeyError):
        said = orjson.dumps(orjson.loads(body)["messages"])
        return said[:200].replace(b'"', b"'").replace(b"\\", b"/")
    return b"nothing"


def hostile(seed: int) -> Callable[[Call], Awaitable[None]]:
    """An upstream that says back what it was told, in every way that an error can be said."""
    roll = random.Random(seed)

    async def script(call: Call) -> None:
        key = call.headers.get("authorization", call.headers.get("x-api-key", "")).encode()
        prompt = messages_of(call.body)
        error = b'{"error":{"code":"%b","message":"refused: %b"}}'
        kind = roll.randrange(14)
        with contextlib.suppress(ConnectionError):
            if kind < 5:
                call.head(content_type=SSE)
                for _ in range(3):
                    call.send(EVENT)
                call.send(b"data: [DONE]\n\n")
                call.finish()
            elif kind < 9:
                status = roll.choice([400, 401, 403, 404, 429, 500, 503])
                said = error % (roll.choice([b"1000", b"1302", b"1234", key]), key)
                call.head(status, content_type=JSON, framing=str(len(said)), x_log_id="1")
                call.send(said)
                call.finish()
            elif kind == 9:
                call.head(content_type=SSE)
                call.send(EVENT)
                call.send(b"data: " + error % (b"1234", prompt) + b"\n\n")
                call.finish()
            elif kind == 10:
                call.head(content_type=SSE)
                call.send(EVENT)
                call.finish(roll.choice(["torn", "rst", "close"]))
            elif kind == 11:
                # The body of a good answer that is passed through is not looked at.
                status = 200 if call.path.endswith(("/completions", "/messages")) else 403
                call.head(status, content_type="text/html", framing="close")
                call.send(b"<html>" + key + prompt)
                call.finish("close")
            elif kind == 12:
                call.head(302, location="http://127.0.0.1/" + key.decode(), framing="0")
                call.finish()
            else:
                call._write(b"HTTP/1.1 " + key + b" " + prompt + b"\r\n\r\n")  # type: ignore[attr-defined]
                call.finish("close")

    return script


class Secrets:
    """Of one run."""

    def __init__(self) -> None:
        roll = random.Random(SEED)
        self.upstream = f"{canary(roll)}.{canary(roll, 16)}"
        self.second = f"{canary(roll, 20)}+{canary(roll, 10)}/{canary(roll, 10)}="
        self.admin = canary(roll)
        self.redis = canary(roll)
        self.collector = canary(roll)
        self.callers = [canary(roll), f"sk-{canary(roll)}", f"{canary(roll)}.{canary(roll, 16)}"]
        self.prompts = [canary(roll, 24) for _ in range(4)]
        self.virtual: list[str] = []

    @property
    def keys(self) -> list[str]:
        """What is in no answer either."""
        tokens = [token.rpartition("-")[2] for token in self.virtual]
        own = [self.upstream, self.second, self.admin, self.redis, self.collector]
        return [*own, *(part for key in self.callers for part in key.split(".")), *tokens]


@asynccontextmanager
async def stage(
    folder: Path, secrets: Secrets, access: str, redis: str | None
) -> AsyncIterator[tuple[Served, Collector]]:
    """Everything that tells or keeps something is on."""
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        upstream = await stack.enter_async_context(ScriptedUpstream(hostile(SEED)))
        for name, secret in (("second", secrets.second), ("redis", secrets.redis)):
            (folder / name).write_text(secret)
            (folder / name).chmod(0o600)
        state = {"state": {"url": redis, "password": "file:redis"}} if redis else {}
        settings: dict[str, Any] = {
            "endpoints": [
                {"name": "a", "base_url": upstream.url, "api_key": "env:UP"},
                {"name": "b", "base_url": upstream.url, "api_key": "file:second"},
            ],
            "admin": {"port": 0, "token": "env:ADMIN"},
            "access": access,
            "log": {"level": "debug", "format": "json"},
            "tracing": {"endpoint": collector.url, "headers": {"authorization": "env:OTLP"}},
            "attempts": {"retries": 1, "breaker": "off"},
            "timeouts": {"first_token": "2s", "total": "5s"},
            "server": {"port": 0, "drain_timeout": "1s", "body_timeout": "1s"},
            "limits": {"per_key": {"requests_per_minute": 100_000}},
            **state,
        }
        environ = {
            "UP": secrets.upstream,
            "ADMIN": secrets.admin,
            "OTLP": secrets.collector,
            "PYTHONASYNCIODEBUG": "",
        }
        served = await stack.enter_async_context(
            serving(folder, settings, environ=environ, log=True)
        )
        yield served, collector


async def tell(address: tuple[str, int], sent: bytes) -> bytes:
    """All that is answered to it."""
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(sent)
            async with asyncio.timeout(0.5):
                while data := await reader.read(65536):
                    received += data
                    if received.endswith((b"0\r\n\r\n", b"}")):
                        break
        finally:
            writer.transport.abort()
    return received


async def fuzz(served: Served, secrets: Secrets, count: int, seed: int) -> int:
    """How many of so many requests were answered; an answer with a key in it fails."""
    lookout = Lookout(secrets.keys)
    requests = Fuzz(seed, [*secrets.callers, *secrets.virtual], secrets.prompts).requests(count)
    answered = 0

    async def some() -> None:
        nonlocal answered
        for request in requests:
            answer = await tell(served.data_address, request)
            answered += bool(answer)
            found = lookout.sees(answer)
            assert found is None, (found, request)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return answered


async def operate(served: Served, secrets: Secrets, access: str) -> None:
    """What an operator does: keys are made, one is used up, a prompt is sent, tokens are tried."""
    host, port = served.admin_address
    base = f"http://{host}:{port}"
    token = {"Authorization": f"Bearer {secrets.admin}"}
    async with aiohttp.ClientSession(headers=token) as session:
        if access == "keys":
            for name in ("team-a", "team-b"):
                async with session.post(f"{base}/admin/keys", json={"name": name}) as answer:
                    assert answer.status == 201
                    secrets.virtual.append((await answer.json())["token"])
        model = {"to": "glm-4-flash", "for": "1h"}
        async with session.put(f"{base}/admin/models/glm-4.6", json=model) as answer:
            assert answer.status == 200
        asked = {"prompt": secrets.prompts[0], "model": "glm-4.6", "way": "proxy"}
        async with session.post(f"{base}/admin/playground", json=asked) as answer:
            await answer.read()
        async with session.post(f"{base}/admin/reload") as answer:
            await answer.read()
    async with aiohttp.ClientSession() as session:
        for wrong in (secrets.callers[0], secrets.prompts[0]):
            headers = {"Authorization": f"Bearer {wrong}"}
            async with session.post(f"{base}/admin/keys?{wrong}", headers=headers) as answer:
                assert answer.status == 401


async def told_to_operators(served: Served, secrets: Secrets) -> dict[str, bytes]:
    """Every page and document of the operator's listener."""
    host, port = served.admin_address
    token = {"Authorization": f"Bearer {secrets.admin}"}
    found = {}
    paths = "/ /metrics /livez /readyz /admin/exchanges /admin/status /admin/models /admin/keys"
    async with aiohttp.ClientSession(f"http://{host}:{port}", headers=token) as session:
        for path in (*paths.split(" "), "/admin/audit"):
            async with session.get(path) as answer:
                found[path] = await answer.read()
                assert answer.status == 200
        async with session.get("/admin/live") as answer:
            found["/admin/live"] = await answer.content.readany()
        for entry in (await (await session.get("/admin/exchanges")).json())["exchanges"][:50]:
            async with session.get(f"/admin/exchanges/{entry['request_id']}") as answer:
                found[entry["request_id"]] = await answer.read()
    return found


async def dump(url: str, password: str) -> None:
    """Everything that it holds, into a file of its folder."""
    client = Redis.from_url(url, password=password)
    await client.save()
    await client.aclose()


async def run(folder: Path, access: str, count: int, redis: str | None = None) -> int:
    """How many answers there were. AssertionError where something was told."""
    secrets = Secrets()
    async with stage(folder, secrets, access, redis) as (served, collector):
        await operate(served, secrets, access)
        answered = await fuzz(served, secrets, count, SEED)
        shown = await told_to_operators(served, secrets)
        await collector.has(1)
        if redis is not None:
            await dump(redis, secrets.redis)
        pid = served.process.pid
        shown["command line"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    shown["traces"] = b"\n".join(collector.bodies)
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("second", "redis", "redis.conf"):
            shown[path.name] = path.read_bytes()
    lookout = Lookout([*secrets.keys, *secrets.prompts])
    assert len(shown["log"]) > count  # it was on
    assert {name: seen for name, text in shown.items() if (seen := lookout.sees(text))} == {}
    return answered


@pytest.mark.parametrize("access", ["open", "keys"])
async def test_no_secret_is_told(tmp_path: Path, access: str) -> None:
    assert await run(tmp_path, access, 150) > 100


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("access", ["open", "keys"])
@pytest.mark.parametrize("home", ["sqlite", "redis"])
async def test_no_secret_is_told_in_100_000_requests(
    needs_program: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    access: str,
    home: str,
) -> None:
    """A quarter of them in each of the four ways."""
    async with AsyncExitStack() as stack:
        redis = None
        if home == "redis":
            program = needs_program("redis-server")
            words = ("--requirepass", Secrets().redis, "--rdbcompression", "no")
            server = await stack.enter_async_context(running_redis(program, tmp_path, *words))
            redis = server.url
        answered = await run(tmp_path, access, 25_000, redis)
    with capsys.disabled():
        print(f"\n{access}, {home}: 25000 requests, {answered} answers, nothing told", end="")
