"""What the dashboards ask exists: metrics, labels, values, buckets, exemplars; and it parses."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.observe.legend import label_of, legend
from proxy.observe.stages import NAMES
from proxy.observe.table import entries
from tests.fakes.records import a_record
from tests.grafana.reading import (
    FILES,
    dashboard,
    filled,
    groups,
    panels,
    queries,
    selectors,
    without_braces,
)
from tests.observe.scraped import Scraped
from tests.selectors import Matcher

EACH = pytest.mark.parametrize("file", FILES)
# What Prometheus itself adds: to every series, and about every scrape.
ADDED = {"instance", "job"}
OF_PROMETHEUS = {"up", "scrape_duration_seconds"}


def known() -> dict[str, tuple[str, ...]]:
    """The labels of everything that can be asked for, by the name of the series."""
    series: dict[str, tuple[str, ...]] = dict.fromkeys(OF_PROMETHEUS, ())
    for entry in entries():
        if entry.kind == "histogram":
            series[f"{entry.name}_bucket"] = (*entry.labels, "le")
            series[f"{entry.name}_sum"] = series[f"{entry.name}_count"] = entry.labels
        else:
            series[entry.name] = entry.labels
    return series


@EACH
def test_every_metric_exists_with_the_labels_it_is_chosen_by(file: str) -> None:
    series = known()
    for asked in queries(file):
        for one in selectors(asked.expr):
            assert one.metric in series, asked.place
            labels = {matcher.label for matcher in one.matchers}
            assert labels <= {*series[one.metric], *ADDED}, f"{asked.place}: {one.metric}"


@EACH
def test_series_are_added_up_by_labels_that_they_have(file: str) -> None:
    series = known()
    for asked in queries(file):
        for labels, body in groups(asked.expr):
            inside = selectors(body)
            assert inside, asked.place
            for one in inside:
                there = {*series[one.metric], *ADDED}
                assert set(labels) <= there, f"{asked.place}: {one.metric} by {labels}"


@EACH
def test_a_legend_names_labels_that_are_left(file: str) -> None:
    for asked in queries(file):
        left = {label for labels, _ in groups(asked.expr) for label in labels}
        if not left:
            left = {label for one in selectors(asked.expr) for label in known()[one.metric]} | ADDED
        named = set(re.findall(r"\{\{(\w+)\}\}", asked.legend))
        assert named <= left, asked.place


@EACH
def test_every_metric_is_chosen_by_the_variables_of_its_labels(file: str) -> None:
    """Whoever chooses an endpoint sees no other one's figures."""
    variables = {
        "route": "$route",
        "served_model": "$model",
        "gen_ai_response_model": "$model",
        "endpoint": "$endpoint",
        "from_endpoint": "$endpoint",
        "instance": "$instance",
    }
    shown = {one["name"] for one in dashboard(file)["templating"]["list"] if one["hide"] == 0}
    series = known()
    for asked in queries(file):
        if "variable" in asked.place:
            continue
        assert without_braces(asked.expr) == [], asked.place
        for one in selectors(asked.expr):
            chosen = {matcher.label: matcher.value for matcher in one.matchers}
            for label in {*series[one.metric], "instance"} & variables.keys():
                if variables[label].removeprefix("$") in shown:
                    assert chosen.get(label) == variables[label], f"{asked.place}: {one.metric}"


@EACH
def test_every_value_that_is_asked_for_can_be_there(file: str) -> None:
    labels = legend()
    wrong = []
    for asked in queries(file):
        for one in selectors(asked.expr):
            for matcher in one.matchers:
                if "$" in matcher.value or matcher.label in ("le", "job"):
                    continue
                name = re.sub("_(bucket|sum|count)$", "", one.metric)
                label = label_of(labels, name, matcher.label)
                assert label is not None
                if not _possible(matcher, label.values):
                    wrong.append(f"{asked.place}: {matcher}")
    assert wrong == []


def _possible(matcher: Matcher, values: tuple[str, ...]) -> bool:
    """Every alternative of a regular expression is somebody's value."""
    regular = matcher.operator.endswith("~")
    wanted = matcher.value.split("|") if regular else [re.escape(matcher.value)]
    return all(any(re.fullmatch(one, value) for value in values) for one in wanted)


def test_buckets_that_are_asked_for_are_buckets_of_the_metric() -> None:
    text = _scrape()
    asked = {
        (one.metric, matcher.value)
        for file in FILES
        for query in queries(file)
        for one in selectors(query.expr)
        for matcher in one.matchers
        if matcher.label == "le"
    }
    assert ("glm_proxy_first_content_seconds_bucket", "5.0") in asked
    for metric, bound in asked:
        assert re.search(rf'^{metric}\{{.*le="{re.escape(bound)}"', text, re.M), (metric, bound)


def test_exemplars_are_asked_of_the_metrics_that_have_them_and_once_a_panel() -> None:
    carrying = set(re.findall(r"^(\w+)\{[^}]*\} \S+ # \{", _scrape(), re.M))
    for file in FILES:
        for panel in panels(file):
            asking = [target for target in panel["targets"] if target["exemplar"]]
            assert len(asking) <= 1, panel["title"]
            for target in asking:
                names = {one.metric for one in selectors(target["expr"])}
                assert names <= carrying, panel["title"]
    shown = {
        one.metric
        for panel in panels("overview.json")
        for target in panel["targets"]
        if target["exemplar"]
        for one in selectors(target["expr"])
    }
    assert {
        f"glm_proxy_{name}_seconds_bucket"
        for name in ("first_content", "time_to_first_token", "time_to_first_byte", "overhead")
    } <= shown


def test_the_waterfall_has_every_stage_in_its_order() -> None:
    for title in ("Mean seconds in each stage", "Stages over time"):
        (panel,) = (one for one in panels("overview.json") if one["title"] == title)
        assert [target["legendFormat"] for target in panel["targets"]] == list(NAMES)


def test_the_parties_have_every_stage_before_the_answer_once() -> None:
    (panel,) = (one for one in panels("overview.json") if one["title"].startswith("Whose time"))
    found = [
        stage
        for target in panel["targets"]
        for stage in re.findall(r'stage_seconds_sum\{stage="(\w+)"', target["expr"])
    ]
    assert sorted([*found, "stream"]) == sorted(NAMES)


def test_each_bad_end_is_the_fault_of_one_side() -> None:
    """Every outcome that can be is in one of the shares, and in one only."""
    (outcomes,) = (one.values for one in legend() if one.name == "outcome")
    (panel,) = (one for one in panels("overview.json") if one["title"].startswith("Exchanges that"))
    shares = [selectors(target["expr"])[0].matchers for target in panel["targets"]]
    for outcome in set(outcomes) - {"completed", "cancelled"}:
        for status in ("2xx", "4xx", "5xx", "none"):
            seen = {"outcome": outcome, "status_class": status}
            assert sum(_holds(matchers, seen) for matchers in shares) == 1, seen


def _holds(matchers: tuple[Matcher, ...], seen: dict[str, str]) -> bool:
    held = []
    for one in matchers:
        if one.label in seen:
            regular = one.operator.endswith("~")
            found = re.fullmatch(one.value if regular else re.escape(one.value), seen[one.label])
            held.append((found is None) is one.operator.startswith("!"))
    return all(held)


def _scrape() -> str:
    """All of a proxy's metrics after one exchange, with exemplars."""
    scraped = Scraped()
    scraped.metrics.started()
    scraped.metrics.finish(a_record(predicted=1.0))
    return scraped.text("application/openmetrics-text")


# --- a real Prometheus ----------------------------------------------------------------------------


async def test_prometheus_can_read_every_query(
    needs_program: Callable[[str], str], tmp_path: Path
) -> None:
    asked = [one for file in FILES for one in queries(file)]
    wrong = []
    async with (
        _prometheus(needs_program("prometheus"), tmp_path) as url,
        aiohttp.ClientSession() as session,
    ):
        for one in asked:
            form = {"query": filled(one.expr)}
            async with session.post(f"{url}/api/v1/query", data=form) as answer:
                read = await answer.json()
            if read["status"] != "success" or read.get("warnings"):
                wrong.append(f"{one.place}: {read.get('error')}: {form['query']}")
    assert wrong == []


@asynccontextmanager
async def _prometheus(program: str, folder: Path) -> AsyncIterator[str]:
    """A Prometheus that scrapes nothing; its address."""
    settings = folder / "prometheus.yml"
    settings.write_text("scrape_configs: []\n", encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(30):
            await _ready(url)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
