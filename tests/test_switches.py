"""Models switched while the proxy runs, over real sockets: by its admin API, by another process,
by the command line; from the next request on, in every process that shares the home."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from proxy.app import App
from proxy.config import State
from proxy.observe.app_log import LOGGER
from proxy.state.home import Home
from proxy.state.memory import MemoryHome
from proxy.state.open import make_home
from tests.fakes.operator import LONGEST, Told, send
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

PATH = "/v1/chat/completions"
TOKEN = "the-operator's-token-0123456789"
EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
FAST: dict[str, Any] = {
    "name": "fast",
    "match": {"model": ["glm-4.6"]},
    "candidates": [{"model": "glm-4-flash"}],
    "params": {"force": {"thinking": "disabled"}},
}


async def answer(call: Call) -> None:
    call.head()
    call.send(EVENT + DONE)
    call.finish()


class Held:
    """An upstream that finishes a stream when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        call.head()
        call.send(EVENT)
        await self.go.wait()
        call.send(DONE)
        call.finish()


def settings(upstream: ScriptedUpstream, folder: Path, **more: Any) -> dict[str, Any]:
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    admin = {"port": 0, "token": f"file:{token}"}
    return in_front_of(upstream, folder, **{"routes": [FAST], "admin": admin} | more)


@asynccontextmanager
async def proxy(
    upstream: ScriptedUpstream, folder: Path, home: Home | None = None, **more: Any
) -> AsyncIterator[App]:
    folder.mkdir(exist_ok=True)
    async with running(folder, settings(upstream, folder, **more), home) as app:
        yield app


def sqlite(folder: Path) -> Home:
    return make_home(State(url=f"sqlite:{folder / 'state.db'}"))


async def admin(app: App, method: str, path: str, body: object = None, **headers: str) -> Told:
    host, port = app.admin_address
    said = {"Authorization": f"Bearer {TOKEN}"} | headers
    return await send(f"http://{host}:{port}/admin{path}", method, body, said)


async def switch(app: App, model: str, to: str, lasting: str | None = None) -> dict[str, Any]:
    told = await admin(app, "PUT", f"/models/{quote(model, safe='')}", {"to": to, "for": lasting})
    assert told.status == 200, told.body
    made: dict[str, Any] = told.json()
    return made


async def asked(app: App, model: str = "glm-4.6") -> Answer:
    answer = await ask(app.data_address, PATH, chat(model))
    assert answer.status == 200, answer.body
    return answer


async def served(app: App, model: str = "glm-4.6") -> str:
    return (await asked(app, model)).headers["x-glm-proxy-model"]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONGEST):
        while not await holds():
            await asyncio.sleep(0.01)


def sent(upstream: ScriptedUpstream) -> dict[str, Any]:
    """The body of the latest request."""
    body: dict[str, Any] = orjson.loads(upstream.calls[-1].body)
    return body


# --- what a switch does ------------------------------------------------------------------------


async def test_the_next_request_is_served_by_the_other_model_and_told_so(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        before = await asked(app)
        made = await switch(app, "glm-4.6", "glm-4.7")
        after = await asked(app)
        assert sent(upstream)["model"] == "glm-4.7"
        assert sent(upstream)["thinking"] == {"type": "disabled"}  # the rule's own
        choices = await samples(app, "glm_proxy_choices_total")
    assert before.headers["x-glm-proxy-model"] == "glm-4-flash"
    assert before.headers["x-glm-proxy-reason"] == "rule"
    assert after.headers["x-glm-proxy-model"] == "glm-4.7"
    assert after.headers["x-glm-proxy-reason"] == "switch"
    assert after.headers["x-glm-proxy-route"] == "fast"
    assert "model" in after.headers["x-glm-proxy-changes"]
    assert (made["model"], made["to"], made["until"], made["by"]) == (
        *("glm-4.6", "glm-4.7", None, "admin"),
    )
    assert [labels["reason"] for labels, count in choices if count] == ["rule", "switch"]


async def test_several_candidates_do_not_hide_that_it_was_switched(tmp_path: Path) -> None:
    several = FAST | {"candidates": [{"model": "a"}, {"model": "b"}], "first_content_target": "5s"}
    endpoints = ("one", "two")
    async with ScriptedUpstream(answer) as upstream:
        both = [{"name": name, "base_url": upstream.url} for name in endpoints]
        async with proxy(upstream, tmp_path, routes=[several], endpoints=both) as app:
            await switch(app, "glm-4.6", "c")
            answered = await asked(app)
            told = (await admin(app, "GET", "/exchanges")).json()["exchanges"][0]
    assert answered.headers["x-glm-proxy-reason"] == "switch"
    assert (told["requested_model"], told["served_model"]) == ("glm-4.6", "c")


async def test_a_stream_that_runs_keeps_its_model(tmp_path: Path) -> None:
    held = Held()
    async with ScriptedUpstream(held) as upstream, proxy(upstream, tmp_path) as app:
        async with RawClient(app.data_address) as client:
            client.post(PATH, chat())
            head = await client.head()
            first = await client.chunk()
            await switch(app, "glm-4.6", "glm-4.7")
            held.go.set()
            last = await client.chunk()
        assert await served(app) == "glm-4.7"
        assert [orjson.loads(call.body)["model"] for call in upstream.calls] == [
            *("glm-4-flash", "glm-4.7"),
        ]
    assert head.headers["x-glm-proxy-model"] == "glm-4-flash"
    assert (first, last) == (EVENT, DONE)


async def test_an_identical_request_does_not_share_the_answer_of_the_model_before(
    tmp_path: Path,
) -> None:
    held = Held()
    together = FAST | {"share": True}
    async with (
        ScriptedUpstream(held) as upstream,
        proxy(upstream, tmp_path, routes=[together]) as app,
        RawClient(app.data_address) as early,
        RawClient(app.data_address) as late,
    ):
        early.post(PATH, chat())
        assert (await early.head()).headers["x-glm-proxy-model"] == "glm-4-flash"
        await switch(app, "glm-4.6", "glm-4.7")
        late.post(PATH, chat())
        assert (await late.head()).headers["x-glm-proxy-model"] == "glm-4.7"
        held.go.set()
        while await early.chunk():
            pass
        while await late.chunk():
            pass


async def test_a_whole_answer_and_the_other_dialect_are_switched_too(tmp_path: Path) -> None:
    async def whole(call: Call) -> None:
        call.head(200, content_type="application/json")
        call.send(b'{"choices":[{"index":0,"message":{"content":"x"}}]}')
        call.finish()

    async with ScriptedUpstream(whole) as upstream, proxy(upstream, tmp_path) as app:
        await switch(app, "glm-4.6", "glm-4.7")
        for path in (PATH, "/v1/messages"):
            body = chat(stream=False, max_tokens=9)
            answered = await ask(app.data_address, path, body)
            assert answered.headers["x-glm-proxy-model"] == "glm-4.7", answered.body
            assert sent(upstream)["model"] == "glm-4.7"


async def test_the_list_of_models_and_what_is_passed_through_stay_as_they_were(
    tmp_path: Path,
) -> None:
    async def echo(call: Call) -> None:
        call.head(200, content_type="application/json")
        call.send(call.body or b"{}")
        call.finish()

    async with ScriptedUpstream(echo) as upstream, proxy(upstream, tmp_path) as app:
        url = "http://{}:{}".format(*app.data_address)
        before = await send(f"{url}/v1/models", "GET")
        await switch(app, "glm-4.6", "glm-4.7")
        await switch(app, "embedding-3", "embedding-2")
        assert (await send(f"{url}/v1/models", "GET")).body == before.body
        body = b'{"model":"embedding-3","input":"x"}'
        passed = await ask(app.data_address, "/v1/embeddings", body)
    assert passed.body == body
    assert upstream.calls[-1].body == body


async def test_the_page_is_told_of_switches_and_of_who_serves(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        await switch(app, "glm-4.6", "glm-4.7", "2h")
        status = (await admin(app, "GET", "/status")).json()
        models = (await admin(app, "GET", "/models")).json()
    assert status["switches"] == models["switches"]
    (one,) = models["switches"]
    assert set(one) == {"model", "to", "until", "since", "by"}
    assert one["until"] - one["since"] == 7200
    assert models["routes"] == status["routes"]
    assert ("fast", "glm-4.7") in {(one["route"], one["model"]) for one in status["candidates"]}


# --- how long it lasts, and who knows ----------------------------------------------------------


async def test_reset_undoes_one_or_all(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        for model in ("glm-4.6", "a", "b"):
            await switch(app, model, "glm-4.7")
        assert (await admin(app, "DELETE", "/models/glm-4.6")).json() == {"reset": 1}
        assert (await admin(app, "DELETE", "/models/glm-4.6")).json() == {"reset": 0}
        assert [await served(app, one) for one in ("glm-4.6", "a")] == ["glm-4-flash", "glm-4.7"]
        assert (await admin(app, "DELETE", "/models")).json() == {"reset": 2}
        assert [await served(app, one) for one in ("a", "b")] == ["a", "b"]


async def test_a_later_switch_replaces_the_one_before(tmp_path: Path) -> None:
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        await switch(app, "glm-4.6", "glm-4.7", "1h")
        await switch(app, "glm-4.6", "glm-4-air")
        assert await served(app) == "glm-4-air"
        (one,) = (await admin(app, "GET", "/models")).json()["switches"]
    assert (one["to"], one["until"]) == ("glm-4-air", None)


async def test_it_ends_by_itself_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = time.time()
    monkeypatch.setattr(time, "time", lambda: at)
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        made = await switch(app, "glm-4.6", "glm-4.7", "2h")
        assert made["until"] == at + 7200
        at += 7199.5
        assert await served(app) == "glm-4.7"
        at += 1
        assert await served(app) == "glm-4-flash"
        assert (await admin(app, "GET", "/models")).json()["switches"] == []
        assert (await admin(app, "DELETE", "/models")).json() == {"reset": 0}


@pytest.mark.parametrize("kept", [False, True])
async def test_a_restart_keeps_what_its_home_keeps(tmp_path: Path, kept: bool) -> None:
    def home() -> Home:
        return sqlite(tmp_path) if kept else MemoryHome()

    async with ScriptedUpstream(answer) as upstream:
        async with proxy(upstream, tmp_path / "a", home()) as app:
            await switch(app, "glm-4.6", "glm-4.7")
            assert await served(app) == "glm-4.7"
        async with proxy(upstream, tmp_path / "a", home()) as app:
            assert await served(app) == ("glm-4.7" if kept else "glm-4-flash")


async def test_all_who_share_a_home_know_a_moment_later(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        proxy(upstream, tmp_path / "a", sqlite(tmp_path)) as one,
        proxy(upstream, tmp_path / "b", sqlite(tmp_path)) as other,
    ):

        async def is_switched() -> bool:
            return await served(other) == "glm-4.7"

        await switch(one, "glm-4.6", "glm-4.7")
        assert await served(one) == "glm-4.7"  # at once where it was said
        await until(is_switched)
        assert (await admin(other, "DELETE", "/models/glm-4.6")).json() == {"reset": 1}
        assert await served(other) == "glm-4-flash"

        async def is_back() -> bool:
            return await served(one) == "glm-4-flash"

        await until(is_back)
        entries = (await admin(one, "GET", "/audit")).json()["entries"]
    assert [(entry["actor"], entry["action"], entry["subject"]) for entry in entries] == [
        ("admin", "model.reset", "glm-4.6"),
        ("admin", "model.set", "glm-4.6 -> glm-4.7"),
    ]


async def _models(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """`glm-proxy models …` as a process of its own: its exit code, output and complaints."""
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "none"), "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "models", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    async with asyncio.timeout(LONGEST):
        output, complaints = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), complaints.decode()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_the_command_reaches_a_running_proxy_and_one_that_comes_later(
    tmp_path: Path, workers: int
) -> None:
    config = ("--config", str(tmp_path / "serve.yaml"))
    async with ScriptedUpstream(answer) as upstream:
        state = f"sqlite:{tmp_path / 'state.db'}"
        server = {"port": 0, "drain_timeout": "1s", "workers": workers}
        whole = settings(upstream, tmp_path, state=state, server=server)
        async with serving(tmp_path, whole) as proxy:

            async def serves(model: str) -> bool:
                """Each worker is asked, as far as chance can tell."""
                some = [await ask(proxy.data_address, PATH, chat()) for _ in range(12)]
                return {one.headers["x-glm-proxy-model"] for one in some} == {model}

            assert await serves("glm-4-flash")
            code, output, _ = await _models(
                tmp_path, "set", "glm-4.6", "glm-4.7", "--for", "2h", *config
            )
            assert (code, output.split(", ")[0]) == (0, "glm-4.6 is served by glm-4.7")
            await until(lambda: serves("glm-4.7"))
            assert (await _models(tmp_path, "reset", *config))[1] == "1 switch undone\n"
            await until(lambda: serves("glm-4-flash"))
        assert (await _models(tmp_path, "set", "glm-4.6", "later", *config))[0] == 0
        async with serving(tmp_path, whole) as proxy:
            assert await serves("later")


# --- the admin API -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("a", {}, "to: Field required"),
        ("a", {"to": ""}, "1 to 128 printable"),
        ("a", {"to": "b c"}, "1 to 128 printable"),
        ("a", {"to": "x" * 129}, "1 to 128 printable"),
        ("a", {"to": "模型"}, "1 to 128 printable"),
        ("a", {"to": 7}, "valid string"),
        ("a", {"to": "a"}, "reset it"),
        ("a", {"to": "b", "for": "2"}, "such as 30m, 2h or 7d"),
        ("a", {"to": "b", "for": 7200}, "without a unit"),
        ("a", {"to": "b", "for": "0s"}, "more than 0"),
        ("a", {"to": "b", "for": "-1h"}, "such as 30m, 2h or 7d"),
        ("a", {"to": "b", "for": "900d"}, "at most 366d"),
        ("a", {"to": "b", "span": "2h"}, "Extra inputs"),
        ("a", {"to": "b", "endpoint": "https://elsewhere"}, "Extra inputs"),
        ("a", {"to": "b", "base_url": "https://elsewhere"}, "Extra inputs"),
        ("a", ["b"], "body: "),
        ("%20", {"to": "b"}, "1 to 128 printable"),
        ("a%0Ab", {"to": "b"}, "1 to 128 printable"),
        ("%00", {"to": "b"}, "1 to 128 printable"),
        ("%E2%80%AE", {"to": "b"}, "1 to 128 printable"),
        ("%ff", {"to": "b"}, "1 to 128 printable"),
        ("%zz", {"to": "b"}, "two hexadecimal digits"),
        ("100%", {"to": "b"}, "two hexadecimal digits"),
        ("x" * 129, {"to": "b"}, "1 to 128 printable"),
    ],
)
async def test_a_wrong_order_is_refused_and_changes_nothing(
    shared: App, path: str, body: object, says: str
) -> None:
    told = await admin(shared, "PUT", f"/models/{path}", body)
    assert told.status == 400
    assert told.json()["error"]["code"] == "bad_request"
    assert says in told.json()["error"]["message"]
    assert (await admin(shared, "GET", "/models")).json()["switches"] == []
    assert (await admin(shared, "GET", "/audit")).json() == {"entries": []}


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[App]:
    async with ScriptedUpstream(answer) as upstream, proxy(upstream, tmp_path) as app:
        yield app


async def test_what_is_no_json_is_refused(shared: App) -> None:
    for body, headers, status in (
        (b"to=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"", {"Content-Type": "application/json"}, 400),
    ):
        assert (await admin(shared, "PUT", "/models/a", body, **headers)).status == status
    assert (await admin(shared, "GET", "/models")).json()["switches"] == []


async def test_odd_names_are_switched_as_they_are_decoded(shared: App) -> None:
    names = ["org/model:v1", "a%2Fb", "100%", "a?b#c", "a+b", "%20", "{model}", "..", "a;b=c"]
    for number, name in enumerate(names):
        await switch(shared, name, f"to-{number}")
        assert await served(shared, name) == f"to-{number}"
    told = (await admin(shared, "GET", "/models")).json()["switches"]
    assert [one["model"] for one in told] == sorted(names)
    for name in names:
        path = f"/models/{quote(name, safe='')}"
        assert (await admin(shared, "DELETE", path)).json() == {"reset": 1}, name


async def test_a_model_without_a_record_is_set_with_a_warning(shared: App) -> None:
    assert "warning" not in await switch(shared, "a", "glm-4.7")
    assert "'nothing-like-it'" in (await switch(shared, "a", "nothing-like-it"))["warning"]
    assert await served(shared, "a") == "nothing-like-it"


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Bearer ", f"Basic {TOKEN}", TOKEN])
async def test_nothing_is_changed_without_the_token(shared: App, authorization: str) -> None:
    await switch(shared, "glm-4.6", "glm-4.7")
    for method, path, body in (
        ("PUT", "/models/glm-4.6", {"to": "other"}),
        ("DELETE", "/models/glm-4.6", None),
        ("DELETE", "/models", None),
    ):
        told = await admin(shared, method, path, body, Authorization=authorization)
        assert told.status == 401
        assert TOKEN not in told.body.decode()
    assert await served(shared) == "glm-4.7"


async def test_what_is_done_is_in_the_audit_and_in_the_log(
    shared: App, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        await switch(shared, "a", "b", "90m")
        await admin(shared, "DELETE", "/models/a")
        await admin(shared, "DELETE", "/models")
    entries = (await admin(shared, "GET", "/audit")).json()["entries"]
    assert [(one["actor"], one["action"], one["subject"]) for one in entries] == [
        ("admin", "model.reset", "all models"),
        ("admin", "model.reset", "a"),
        ("admin", "model.set", "a -> b for 90m"),
    ]
    assert all(abs(one["at"] - time.time()) < 60 for one in entries)
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [line for line in lines if not line.startswith("audit: ")] == [
        "a is served by b (switched by admin)",
        "a is served as the settings say",
    ]
    assert [line for line in lines if line.startswith("audit: ")] == [
        "audit: admin model.set a -> b for 90m",
        "audit: admin model.reset a",
        "audit: admin model.reset all models",
    ]
    for number in range(3):
        await switch(shared, f"m{number}", "b")
    few = (await admin(shared, "GET", "/audit?limit=2")).json()["entries"]
    assert [one["subject"] for one in few] == ["m2 -> b", "m1 -> b"]
    for limit in ("0", "-1", "x", "1001", "", "1&limit=2"):
        assert (await admin(shared, "GET", f"/audit?limit={limit}")).status == 400


async def test_a_home_that_cannot_be_used_is_told(
    shared: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxy.state.home import StateError

    async def broken(*_: object) -> None:
        raise StateError("the file cannot be written: No space left on device")

    for name in ("save_switch", "drop_switches", "audit"):
        monkeypatch.setattr(shared.home, name, broken)
    for method, path, body in (
        ("PUT", "/models/a", {"to": "b"}),
        ("DELETE", "/models", None),
        ("GET", "/audit", None),
    ):
        told = await admin(shared, method, path, body)
        assert (told.status, told.json()["error"]["code"]) == (503, "state_unavailable")
        assert "No space left" in told.json()["error"]["message"]
