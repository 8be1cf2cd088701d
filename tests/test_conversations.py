"""`config/conversations.yaml`, the example with everything on: each of its parts is at work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from proxy.app import App
from proxy.config import bundled
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import running
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT = "/v1/chat/completions"
SESSION = "x-session-id: trip"
PAGE = Origin("https://app.example.com")
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def answer(**choice: object) -> bytes:
    return orjson.dumps(
        {"id": "1", "model": "glm-4.6", "choices": [{"index": 0, **choice}], "usage": USAGE}
    )


async def script(call: Call) -> None:
    text = {"role": "assistant", "content": "Qingdao."}
    if orjson.loads(call.body).get("stream"):
        call.head()
        call.send(b"data: %b\n\n" % answer(delta=text))
        call.send(b"data: %b\n\ndata: [DONE]\n\n" % answer(delta={}, finish_reason="stop"))
    else:
        call.head(content_type="application/json")
        call.send(answer(message=text, finish_reason="stop"))
    call.finish()


@asynccontextmanager
async def example(folder: Path) -> AsyncIterator[tuple[App, ScriptedUpstream]]:
    """A proxy with the file as it ships, but for the endpoint's address."""
    settings = yaml.safe_load(bundled("conversations.yaml").read_text("utf-8"))
    async with ScriptedUpstream(script) as upstream:
        settings["endpoints"][0]["base_url"] = upstream.url
        async with running(folder, settings) as app:
            yield app, upstream


async def said(app: App, text: str, *headers: str) -> Answer:
    body = chat(messages=[{"role": "user", "content": text}])
    return await ask(app.data_address, CHAT, body, *headers)


async def test_a_conversation_is_remembered_in_the_file_beside_it(tmp_path: Path) -> None:
    async with example(tmp_path) as (app, upstream):
        first = await said(app, "The trip goes to Qingdao", SESSION)
        told = first.headers["x-glm-proxy-memory"]
        assert not told.startswith("used")
        async with asyncio.timeout(10):
            while not told.startswith("used"):
                await asyncio.sleep(0.02)
                again = await said(app, "Where does the trip go", SESSION)
                told = again.headers["x-glm-proxy-memory"]
        assert b"The trip goes to Qingdao" in upstream.calls[-1].body
        await until((tmp_path / "memory.db").exists)


async def test_the_same_question_is_answered_again_without_the_api(tmp_path: Path) -> None:
    async with example(tmp_path) as (app, upstream):
        first = await said(app, "hi")
        assert (first.status, first.headers["x-glm-proxy-cache"]) == (200, "miss")
        async with asyncio.timeout(10):
            while (again := await said(app, "hi")).headers["x-glm-proxy-cache"] != "hit":
                await asyncio.sleep(0.02)
        assert b"Qingdao." in again.body
        asked = len(upstream.calls)
        assert (await said(app, "hi")).headers["x-glm-proxy-cache"] == "hit"
        assert len(upstream.calls) == asked


async def test_a_stream_can_be_fetched_again(tmp_path: Path) -> None:
    async with example(tmp_path) as (app, upstream), RawClient(app.data_address) as client:
        client.post(CHAT, chat(), SESSION)
        stream = (await client.head()).headers["x-glm-proxy-stream"]
        client.writer.transport.abort()
        async with RawClient(app.data_address) as back:
            back.writer.write(b"GET /v1/streams/%b HTTP/1.1\r\nHost: a\r\n\r\n" % stream.encode())
            told = await back.whole()
        assert (told.status, len(upstream.calls)) == (200, 1)
        assert told.chunks[-1] == b"data: [DONE]\n\n"


async def test_a_response_goes_on_where_another_ended(tmp_path: Path) -> None:
    async with example(tmp_path) as (app, upstream):
        body = {"model": "glm-4.6", "input": "The trip goes to Qingdao"}
        first = (await ask(app.data_address, "/v1/responses", orjson.dumps(body))).json()
        body = {"model": "glm-4.6", "input": "Where?", "previous_response_id": first["id"]}
        second = (await ask(app.data_address, "/v1/responses", orjson.dumps(body))).json()
        assert second["status"] == "completed"
        assert b"The trip goes to Qingdao" in upstream.calls[-1].body


async def test_a_websocket_is_for_programs_and_for_no_page(tmp_path: Path) -> None:
    async with example(tmp_path) as (app, _):
        host, port = app.data_address
        async with connect(f"ws://{host}:{port}{CHAT}", proxy=None) as socket:
            await socket.send(json.dumps({"id": "a", "body": json.loads(chat())}))
            told = [json.loads(await socket.recv()) for _ in range(4)]
        assert told[0]["status"] == 200
        assert told[-1] == {"id": "a", "done": True}
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{host}:{port}{CHAT}", origin=PAGE, proxy=None)
        assert caught.value.response.status_code == 403
