"""The table of metrics, against its file and against what a running proxy shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser

from proxy.app import App
from proxy.cli import group
from proxy.observe.legend import label_of, legend
from proxy.observe.table import entries, markdown
from tests.fakes.raw_client import ask, chat
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream

PAGE = Path(__file__).parents[2] / "deploy" / "prometheus" / "METRICS.md"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
parse: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families


def test_the_file_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(group, ["metrics"]).output
    assert printed == markdown()
    assert PAGE.read_text(encoding="utf-8") == printed, (
        "glm-proxy metrics > deploy/prometheus/METRICS.md"
    )


def test_the_table_is_a_table() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(entries()) + len(legend())
    assert {line.count(" | ") for line in rows} == {3, 5}


async def speak(call: Call) -> None:
    call.head()
    call.send(b'data: {"id":"1","choices":[{"delta":{"content":"hi"}}]}\n\n')
    await asyncio.sleep(0.005)
    call.send(
        b'data: {"id":"1","choices":[{"delta":{},"finish_reason":"stop"}],"usage":'
        b'{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    )
    call.finish()


async def scrape(app: App, accept: str = OPEN_METRICS) -> str:
    host, port = app.admin_address
    url = f"http://{host}:{port}/metrics"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"Accept": accept}) as answer,
    ):
        assert answer.status == 200
        return await answer.text()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[App]:
    """A proxy that has served one stream."""
    async with (
        ScriptedUpstream(speak, h2=True) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        answer = await ask(app.data_address, "/v1/chat/completions", chat())
        assert answer.clean
        yield app


async def test_a_running_proxy_shows_what_is_in_the_table_and_nothing_else(asked: App) -> None:
    shown = {family.name: family for family in parse(await scrape(asked))}
    told = {one.name.removesuffix("_total").removesuffix("_info"): one for one in entries()}
    assert set(shown) == set(told)
    for name, family in shown.items():
        assert (family.type, family.documentation) == (told[name].kind, told[name].meaning)


async def test_what_is_shown_has_the_labels_and_the_values_of_the_table(asked: App) -> None:
    known = {one.name.removesuffix("_total").removesuffix("_info"): one for one in entries()}
    explained = legend()
    seen = 0
    for family in parse(await scrape(asked)):
        one = known[family.name]
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(one.labels), sample
            for name, value in sample.labels.items():
                label = None if name == "le" else label_of(explained, one.name, name)
                if label is not None and label.values:
                    seen += 1
                    assert value in {*label.values, "", "other", "none"}, sample
    assert seen > 100
