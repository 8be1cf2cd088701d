"""The process in the metrics: its loop, its collector, its settings."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from proxy.observe.process import Process
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

LAG = "glm_proxy_event_loop_lag_seconds"
PAUSE = "glm_proxy_gc_pause_seconds"
GUARD = 10.0


class Watched:
    """A process with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.process = Process(self.registry, now=lambda: 1_767_323_045.0)

    def value(self, name: str, **labels: str) -> float | None:
        self.process.settle()
        return self.registry.get_sample_value(name, labels)

    async def looks(self, count: int) -> None:
        """Return when the loop was looked at so often."""
        async with asyncio.timeout(GUARD):
            while (self.value(f"{LAG}_count") or 0) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
def watched() -> Iterator[Watched]:
    one = Watched()
    yield one
    one.process.stop()


def hold_the_loop() -> None:
    time.sleep(0.6)


async def test_a_loop_that_is_held_up_shows_how_long(watched: Watched) -> None:
    watched.process.start()
    await watched.looks(1)
    before = watched.value(f"{LAG}_sum") or 0.0
    hold_the_loop()
    await watched.looks(2)
    assert (watched.value(f"{LAG}_sum") or 0.0) - before > 0.3


async def test_the_loop_is_looked_at_again_and_again_until_the_stop(watched: Watched) -> None:
    watched.process.start()
    await watched.looks(3)
    watched.process.stop()
    looks = watched.value(f"{LAG}_count")
    await asyncio.sleep(0.4)
    assert watched.value(f"{LAG}_count") == looks


async def test_a_pause_is_counted_by_its_generation(watched: Watched) -> None:
    watched.process.start()
    gc.disable()
    try:
        gc.collect(0)
        gc.collect(2)
        gc.collect(2)
    finally:
        gc.enable()
    counts = [watched.value(f"{PAUSE}_count", generation=str(one)) or 0 for one in range(3)]
    assert counts[0] >= 1
    assert counts[2] >= 2
    assert (watched.value(f"{PAUSE}_sum", generation="2") or 0) > 0


async def test_nothing_is_left_behind(watched: Watched) -> None:
    callbacks = list(gc.callbacks)
    watched.process.stop()
    watched.process.start()
    assert len(gc.callbacks) == len(callbacks) + 1
    watched.process.stop()
    watched.process.stop()
    assert gc.callbacks == callbacks


def test_pauses_that_nobody_asks_for_do_not_pile_up(watched: Watched) -> None:
    for _ in range(20_000):
        watched.process._collected("start", {"generation": 0})
        watched.process._collected("stop", {"generation": 0})
    assert 0 < (watched.value(f"{PAUSE}_count", generation="0") or 0) <= 4096


def test_the_settings_in_use_are_shown(watched: Watched) -> None:
    watched.process.config_loaded("0123456789ab")
    assert watched.value("glm_proxy_config_info", hash="0123456789ab") == 1
    assert watched.value("glm_proxy_config_last_reload_successful") == 1
    loaded = "glm_proxy_config_last_reload_success_timestamp_seconds"
    assert watched.value(loaded) == 1_767_323_045
    watched.process.config_refused()
    assert watched.value("glm_proxy_config_last_reload_successful") == 0
    assert watched.value("glm_proxy_config_info", hash="0123456789ab") == 1
    results = {
        result: watched.value("glm_proxy_config_reloads_total", result=result)
        for result in ("success", "failure")
    }
    assert results == {"success": 1, "failure": 1}


def test_other_settings_have_another_hash_and_the_old_one_is_gone(watched: Watched) -> None:
    for digest in ("aaa", "bbb"):
        watched.process.config_loaded(digest)
    assert watched.value("glm_proxy_config_info", hash="aaa") is None
    assert watched.value("glm_proxy_config_info", hash="bbb") == 1
    assert watched.value("glm_proxy_workers") == 1


async def answer(call: Call) -> None:
    call.head()
    call.send(b"data: [DONE]\n\n")
    call.finish()


async def test_a_running_proxy_watches_itself_and_knows_its_settings(tmp_path: Path) -> None:
    callbacks = list(gc.callbacks)
    async with (
        ScriptedUpstream(answer, h2=True) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        async with asyncio.timeout(GUARD):
            while (await samples(app, f"{LAG}_count"))[0][1] < 1:
                await asyncio.sleep(0.02)
        (info,) = await samples(app, "glm_proxy_config_info")
        assert len(info[0]["hash"]) == 12
        ((_, loaded),) = await samples(
            app, "glm_proxy_config_last_reload_success_timestamp_seconds"
        )
        assert abs(loaded - time.time()) < 600
        reloads = await samples(app, "glm_proxy_config_reloads_total")
        assert sorted((one["result"], count) for one, count in reloads) == [
            ("failure", 0),
            ("success", 1),
        ]
    assert gc.callbacks == callbacks


async def test_the_end_of_an_endpoints_certificate_is_shown(tmp_path: Path) -> None:
    expiry = "glm_proxy_certificate_expiry_timestamp_seconds"
    async with (
        ScriptedUpstream(answer, h2=True) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        async with asyncio.timeout(GUARD):
            while not (found := await samples(app, expiry)):
                await asyncio.sleep(0.02)
        ((labels, ends),) = found
        assert labels == {"endpoint": "up"}
        assert ends > time.time() + 86_400
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        assert await samples(app, expiry) == []
