"""New settings in a running proxy: what runs goes on as it began, what comes has the new ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.config import CannotReload
from proxy.core.policy.outcome import Outcome
from tests.fakes.raw_client import RawClient, ask, chat
from tests.fakes.reloading import (
    CHAT,
    Reloading,
    Told,
    endpoint,
    model_of,
    reloading,
    rest,
    streaming,
)
from tests.fakes.running import samples
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

TOKEN = "operator-token-of-the-test"


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def to_model(name: str) -> dict[str, Any]:
    return {"name": "all", "candidates": [{"model": name}]}


def secret(folder: Path, value: str) -> str:
    """A reference to it, in a file."""
    path = folder / "key"
    path.touch(0o600)
    path.write_text(value)
    return f"file:{path}"


def authorization(call: Call) -> str:
    return call.headers["authorization"]


# --- routes and what they say ------------------------------------------------------------------


async def test_a_running_stream_ends_on_its_old_route_and_the_next_has_the_new_one(
    tmp_path: Path, over_h2: bool
) -> None:
    told = Told()
    async with (
        ScriptedUpstream(told, h2=over_h2) as upstream,
        reloading(
            tmp_path, endpoints=[endpoint(upstream, tmp_path)], routes=[to_model("old")]
        ) as proxy,
        streaming(proxy.app) as client,
    ):
        await proxy.to(routes=[to_model("now-new")])
        answer = await ask(proxy.app.data_address, CHAT, chat())
        assert answer.headers["x-glm-proxy-model"] == "now-new"
        told.may_end.set()
        ended = await rest(client)
        assert ended.clean
        assert b"last" in ended.body
        assert [model_of(call) for call in upstream.calls] == ["old", "now-new"]


async def test_a_request_that_waits_for_its_first_token_keeps_its_timeouts(tmp_path: Path) -> None:
    may_begin = asyncio.Event()

    async def script(call: Call) -> None:
        await may_begin.wait()
        await Told()(call)

    async with (
        ScriptedUpstream(script) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
        RawClient(proxy.app.data_address) as patient,
    ):
        patient.post(CHAT, chat("now"))
        await upstream.arrived.acquire()
        await proxy.to(timeouts={"first_token": "100ms", "total": "100ms"}, attempts={"retries": 0})
        hasty = await ask(proxy.app.data_address, CHAT, chat("now"))
        assert hasty.status == 504
        may_begin.set()
        assert (await patient.whole()).clean


async def test_body_limits_change_for_the_next_request(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(Told()) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        server = proxy.settings["server"]
        assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 200
        await proxy.to(server={**server, "body_limit": "8B"})
        assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 413


async def test_header_time_changes_for_new_connections(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(Told()) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        await proxy.to(server={**proxy.settings["server"], "header_timeout": "50ms"})
        async with RawClient(proxy.app.data_address) as slow:
            slow.writer.write(b"POST ")
            assert await asyncio.wait_for(slow.reader.read(), 20) is not None


async def test_who_may_come_in_changes_for_the_next_request(tmp_path: Path) -> None:
    told = Told()
    key = secret(tmp_path, "endpoint-key")
    async with (
        ScriptedUpstream(told) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path, api_key=key)]) as proxy,
        streaming(proxy.app) as client,
    ):
        await proxy.to(access="keys")
        assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 401
        told.may_end.set()
        assert (await rest(client)).clean


async def test_a_shared_answer_ends_in_its_own_generation(tmp_path: Path) -> None:
    told = Told()
    share = {"name": "together", "share": True}
    async with (
        ScriptedUpstream(told) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)], routes=[share]) as proxy,
        streaming(proxy.app) as one,
        streaming(proxy.app) as other,
    ):
        assert len(upstream.calls) == 1
        await proxy.to(timeouts={"idle": "20s"})
        async with streaming(proxy.app) as third:
            assert len(upstream.calls) == 2
            told.may_end.set()
            assert all([(await rest(client)).clean for client in (one, other, third)])


async def test_the_list_of_models_and_the_status_page_follow(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(Told()) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
        aiohttp.ClientSession() as session,
    ):
        await proxy.to(
            routes=[{"name": "mine", "match": {"model": ["my-alias"]}}],
            endpoints=[endpoint(upstream, tmp_path, name="renamed", region="moon")],
        )
        host, port = proxy.app.data_address
        async with session.get(f"http://{host}:{port}/v1/models") as answer:
            assert "my-alias" in [one["id"] for one in (await answer.json())["data"]]
        host, port = proxy.app.admin_address
        async with session.get(f"http://{host}:{port}/admin/status") as answer:
            status = await answer.json()
        assert [one["name"] for one in status["routes"]] == ["mine", "default"]
        assert [one["name"] for one in status["endpoints"]] == ["renamed"]
        assert "my-alias" in status["models"]
        assert "my-alias" in status["settings"]
        places = await samples(proxy.app, "glm_proxy_endpoint_info")
        assert [labels for labels, _ in places] == [{"endpoint": "renamed", "region": "moon"}]


# --- connections -------------------------------------------------------------------------------


async def test_pools_of_unchanged_endpoints_survive_with_their_connections(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(Told(), h2=True) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        pool = proxy.app.house.upstreams["up"].pool
        await until(lambda: pool.stats().connections == 2)
        for number in range(5):
            await proxy.to(routes=[to_model(f"now-{number}")], timeouts={"idle": f"{number + 1}s"})
            assert proxy.app.house.upstreams["up"].pool is pool
            assert (await ask(proxy.app.data_address, CHAT, chat())).status == 200
        assert upstream.connections == 2


async def test_another_key_is_sent_at_once_and_over_the_same_connections(tmp_path: Path) -> None:
    told = Told()
    key = secret(tmp_path, "first-key")
    async with (
        ScriptedUpstream(told, h2=True) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path, api_key=key)]) as proxy,
    ):
        await until(lambda: proxy.app.house.upstreams["up"].pool.stats().connections == 2)
        async with streaming(proxy.app) as client:
            secret(tmp_path, "second-key")
            await proxy.reread()
            assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 200
            told.may_end.set()
            assert (await rest(client)).clean
        sent = [authorization(call) for call in upstream.calls]
        assert sent == ["Bearer first-key", "Bearer second-key"]
        assert upstream.connections == 2


async def test_a_changed_pool_is_replaced_and_closed_after_its_last_use(
    tmp_path: Path, over_h2: bool
) -> None:
    told = Told()
    async with (
        ScriptedUpstream(told, h2=over_h2) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        before = proxy.app.house.upstreams["up"].pool
        async with streaming(proxy.app) as client:
            old = set(upstream.transports)
            await proxy.to(pool={"warm_connections": 1, "idle_timeout": "30s"})
            assert proxy.app.house.upstreams["up"].pool is not before
            assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 200
            assert old & upstream.transports
            told.may_end.set()
            assert (await rest(client)).clean
        await until(lambda: not old & upstream.transports)
        assert upstream.transports


async def test_a_removed_endpoint_serves_its_streams_to_the_end_and_is_left_then(
    tmp_path: Path, over_h2: bool
) -> None:
    told = Told()
    async with (
        ScriptedUpstream(told, h2=over_h2) as old,
        ScriptedUpstream(Told(), h2=over_h2) as new,
        reloading(tmp_path, endpoints=[endpoint(old, tmp_path, name="old")]) as proxy,
    ):
        async with streaming(proxy.app) as client:
            await proxy.to(endpoints=[endpoint(new, tmp_path, name="new")])
            answer = await ask(proxy.app.data_address, CHAT, chat("now"))
            assert answer.headers["x-glm-proxy-endpoint"] == "new"
            told.may_end.set()
            assert (await rest(client)).clean
        await until(lambda: not old.transports)
        ended = await samples(proxy.app, "glm_proxy_exchanges_total")
        assert {labels["endpoint"] for labels, _ in ended} == {"old", "new"}


async def test_a_request_that_is_passed_through_ends_at_its_old_endpoint(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def script(call: Call) -> None:
        call.head(content_type="application/octet-stream")
        call.send(b"first")
        await may_end.wait()
        call.send(b"last")
        call.finish()

    async with (
        ScriptedUpstream(script) as old,
        ScriptedUpstream(Told()) as new,
        reloading(tmp_path, endpoints=[endpoint(old, tmp_path, name="old")]) as proxy,
    ):
        async with RawClient(proxy.app.data_address) as client:
            client.post("/v1/files", b"content")
            assert (await client.head()).status == 200
            assert await client.chunk() == b"first"
            await proxy.to(endpoints=[endpoint(new, tmp_path, name="new")])
            may_end.set()
            ended = await rest(client)
            assert ended.clean
            assert ended.body == b"last"
        await until(lambda: not old.transports)


async def test_settings_that_come_back_find_their_pool_again(tmp_path: Path) -> None:
    told = Told()
    async with (
        ScriptedUpstream(told, h2=True) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
        streaming(proxy.app) as client,
    ):
        pool = proxy.app.house.upstreams["up"].pool
        for _ in range(3):
            await proxy.to(pool={"warm_connections": 1})
            assert proxy.app.house.upstreams["up"].pool is not pool
            await proxy.to(pool=None)
            assert proxy.app.house.upstreams["up"].pool is pool
        told.may_end.set()
        assert (await rest(client)).clean


async def test_another_certificate_authority_in_the_same_file_takes_new_connections(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(Told(), h2=True) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        pool = proxy.app.house.upstreams["up"].pool
        ca_file = Path(proxy.settings["endpoints"][0]["ca_file"])
        ca_file.write_text(ca_file.read_text() + "\n# renewed\n")
        await proxy.reread()
        assert proxy.app.house.upstreams["up"].pool is not pool
        assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 200


# --- what was learned --------------------------------------------------------------------------


def breaker_state(proxy: Reloading) -> list[str]:
    now = proxy.app.house.clock()
    return [state for _, _, state in proxy.app.house.knowledge.breakers(now)]


async def test_what_is_known_of_a_candidate_outlives_a_reload_but_not_its_address(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(Told()) as upstream,
        ScriptedUpstream(Told()) as elsewhere,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        assert (await ask(proxy.app.data_address, CHAT, chat("now"))).status == 200
        house = proxy.app.house
        route = house.router.usual("now", house.wall())
        vitals = house.knowledge.vitals(route, route.candidates[0])
        assert vitals.breaker is not None
        for _ in range(50):
            vitals.breaker.record(Outcome.FAILURE, house.clock(), 0.5, probe=False)
        assert breaker_state(proxy) == ["open"]
        await proxy.to(timeouts={"idle": "20s"})
        assert proxy.app.house.knowledge is not house.knowledge
        assert breaker_state(proxy) == ["open"]
        await proxy.to(endpoints=[endpoint(elsewhere, tmp_path)])
        assert breaker_state(proxy) == []


async def test_a_request_in_the_queue_never_leaves_with_its_callers_key(tmp_path: Path) -> None:
    """The permit it gets then names a key that the settings it began with do not know."""
    told = Told()
    key = secret(tmp_path, "first-key")
    async with (
        ScriptedUpstream(told) as upstream,
        reloading(
            tmp_path,
            endpoints=[endpoint(upstream, tmp_path, api_key=key)],
            admission={"limit": 1},
        ) as proxy,
        streaming(proxy.app, "glm-4.6", "Authorization: Bearer caller-key"),
        RawClient(proxy.app.data_address) as queued,
    ):
        queued.post(CHAT, chat(), "Authorization: Bearer caller-key")
        figures = proxy.app.house.admission.figures
        await until(lambda: sum(one.waiting for one in figures().values()) == 1)
        secret(tmp_path, "second-key")
        await proxy.reread()
        # What comes now says which keys there are from now on.
        async with RawClient(proxy.app.data_address) as third:
            third.post(CHAT, chat(), "Authorization: Bearer caller-key")
            await until(lambda: len(upstream.calls) >= 2)
            told.may_end.set()
            assert (await queued.whole()).clean
            assert (await third.whole()).clean
        assert len(upstream.calls) == 3
        assert not [call for call in upstream.calls if "caller-key" in authorization(call)]


# --- refusals ----------------------------------------------------------------------------------


async def test_what_needs_a_restart_is_refused_by_name_with_all_the_rest(tmp_path: Path) -> None:
    told = Told()
    async with (
        ScriptedUpstream(told) as upstream,
        reloading(
            tmp_path, endpoints=[endpoint(upstream, tmp_path)], routes=[to_model("now-old")]
        ) as proxy,
    ):
        house = proxy.app.house
        with pytest.raises(CannotReload) as refused:
            await proxy.to(
                server={"port": 4321, "workers": 2},
                admin={"port": 4322, "exchanges": 7},
                log={"format": "text"},
                metrics={"enabled": False},
                tracing={"endpoint": "http://127.0.0.1:4318"},
                state="redis://127.0.0.1:1",
                routes=[to_model("now-new")],
            )
        assert {problem.where for problem in refused.value.problems} == {
            *("server.port", "server.workers", "admin.port", "admin.exchanges", "log.format"),
            *("metrics.enabled", "tracing", "state"),
        }
        assert "server.port: needs a restart (was 0)" in str(refused.value)
        assert proxy.app.house is house
        answer = await ask(proxy.app.data_address, CHAT, chat())
        assert answer.headers["x-glm-proxy-model"] == "now-old"


async def test_the_metrics_tell_what_became_of_new_settings(tmp_path: Path) -> None:
    async def one(name: str) -> list[float]:
        return [value for _, value in await samples(proxy.app, f"glm_proxy_config_{name}")]

    async with (
        ScriptedUpstream(Told()) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)]) as proxy,
    ):
        info = await samples(proxy.app, "glm_proxy_config_info")
        with pytest.raises(CannotReload):
            await proxy.to(metrics={"enabled": False})
        assert await one("last_reload_successful") == [0]
        assert await samples(proxy.app, "glm_proxy_config_info") == info
        await proxy.to(metrics=None, timeouts={"idle": "20s"})
        assert await one("last_reload_successful") == [1]
        assert await samples(proxy.app, "glm_proxy_config_info") != info
        counted = await samples(proxy.app, "glm_proxy_config_reloads_total")
        results = {labels["result"]: value for labels, value in counted}
        assert results == {"success": 2, "failure": 1}
