"""`glm-proxy bench --suite`: what is asked, what is made of it, what is told, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import string
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from proxy.bench.measure import Sample
from proxy.bench.plan import Ask, usual_headers
from proxy.bench.suite import lumosai_report, lumosai_words, tail_report, tail_words
from proxy.bench.suite.application import history, memories
from proxy.bench.suite.asking import Asking, poisson
from proxy.bench.suite.conditions import Conditions
from proxy.bench.suite.lumosai import (
    LEVERS,
    PROXIED,
    SCENES,
    V1,
    V2,
    asks,
    settings_without,
    without,
)
from proxy.bench.suite.lumosai_figures import (
    Found,
    cell,
    goals,
    least_thinking,
    shares,
    split,
    times_better,
)
from proxy.bench.suite.tail import Found as TailFound
from proxy.bench.suite.tail import phases
from proxy.bench.suite.tail_figures import busiest, figures, median_apart, outage
from proxy.bench.suite.tail_figures import goals as tail_goals
from proxy.cli import group
from proxy.cli.demo.children import NotRunning
from proxy.cli.suite.machine import Busy, describe
from proxy.cli.suite.stage import fast_settings, scaled, write
from proxy.config import load
from proxy.simulator.texts import estimate_tokens

ROOT = Path(__file__).parents[1]
CONDITIONS = Conditions(
    time_scale=0.1, requests=1, seed=7, took=1.5, machine="a machine", busy=0.2, own=0.1, late=0.001
)


def sample(way: str, scene: str, first_content: float = 0.2, **fields: Any) -> Sample:
    """A complete answer as the machine's clock has it, at a tenth of the service's time."""
    whole = Sample(
        way=way,
        number=0,
        outcome="complete",
        detail=None,
        status=200,
        model="glm-4-flash",
        headers=0.1,
        ttfb=0.15,
        first_event=0.15,
        ttft=0.15,
        first_content=first_content,
        last_byte=first_content + 0.05,
        gap_mean=None,
        gap_max=None,
        events=10,
        chunks=10,
        output_tokens=8,
        visible=8,
        scene=scene,
    )
    return replace(whole, **fields)


def logged(request_id: str, **fields: Any) -> dict[str, Any]:
    """A line of the proxy's access log."""
    return {
        "request_id": request_id,
        "outcome": "completed",
        "served_model": "glm-4-flash",
        "attempt_count": 1,
        "attempts": [{"connect_s": 0.001, "headers_s": 0.099}],
        "ttft_s": 0.12,
        "first_content_s": 0.13,
        "duration_s": 0.15,
        "overhead_s": 0.0005,
    } | fields


def lumosai(**firsts: float) -> Found:
    """A run in which every scene took so long to first content on each way, in service seconds."""
    samples = [
        sample(way.replace("_", "-"), scene.name, seconds / 10)
        for way, seconds in firsts.items()
        for scene in SCENES
    ]
    lines = [logged(f"proxied-{scene.name}-0") for scene in SCENES]
    return Found(CONDITIONS, samples, {"proxied": lines})


# --- what the application sends -------------------------------------------------------------------


def tokens(messages: list[dict[str, Any]]) -> int:
    return sum(estimate_tokens(message["content"]) + 4 for message in messages)


def test_the_memories_are_the_2300_tokens_of_the_report_and_the_history_is_above_8k() -> None:
    assert tokens(memories(1)) == pytest.approx(2300, rel=0.05)
    assert 8192 < tokens(history(1)) < 10_000


def test_no_two_requests_begin_alike_so_that_no_prompt_was_read_before() -> None:
    begins = {json.dumps(around(n))[:200] for around in (memories, history) for n in range(20)}
    assert len(begins) == 40


def test_every_way_is_asked_the_same_scenes_in_the_same_order() -> None:
    first, second = asks(V1, "http://a", 3, 1, 0.1), asks(PROXIED, "http://b", 3, 1, 0.1)
    assert [(a.scene, a.number) for a in first] == [(a.scene, a.number) for a in second]
    assert len(first) == 3 * len(SCENES)
    assert json.loads(first[0].body) == json.loads(second[0].body)
    assert json.loads(asks(V2, "http://a", 1, 1, 0.1)[0].body)["model"] == "glm-4-flash"


def test_the_proxy_sees_by_its_size_that_a_prompt_is_long() -> None:
    sizes = {ask.scene: len(ask.body) for ask in asks(PROXIED, "http://a", 1, 1, 0.1)}
    long = load(ROOT / "config/fast.yaml", {}).routes[0].match.min_prompt
    assert long is not None
    assert [name for name, size in sizes.items() if size >= long] == ["long"]
    assert sizes["long"] < 48 << 10, "it would leave by HTTP/1.1"


# --- settings of a suite's proxies ----------------------------------------------------------------

ENDPOINT = {"name": "simulator", "base_url": "https://127.0.0.1:1"}


def test_only_the_endpoint_and_the_log_are_other_and_every_duration_is_scaled(
    tmp_path: Path,
) -> None:
    written = load(write(tmp_path / "x.yaml", fast_settings(), ENDPOINT, 0.1), {})
    fast = load(ROOT / "config/fast.yaml", {})
    assert [e.base_url for e in written.endpoints] == ["https://127.0.0.1:1"]
    for mine, theirs in zip(written.routes, fast.routes, strict=True):
        assert (mine.name, mine.match, mine.candidates) == (
            theirs.name,
            theirs.match,
            theirs.candidates,
        )
        assert mine.first_content_target == pytest.approx((theirs.first_content_target or 0) / 10)
        assert mine.hedge != "off" != theirs.hedge
        assert mine.hedge is not None
        assert theirs.hedge is not None
        assert mine.hedge.min == pytest.approx(theirs.hedge.min / 10)
        assert mine.hedge.budget == theirs.hedge.budget
    assert written.timeouts.idle == pytest.approx(fast.timeouts.idle / 10), "a default too"
    assert written.pool.connect_timeout == pytest.approx(fast.pool.connect_timeout / 10)
    assert written.pool.http1_bodies_over == fast.pool.http1_bodies_over


def test_what_looks_like_a_duration_and_is_a_name_or_a_size_is_left() -> None:
    settings = {"name": "5s", "model": ["1m"], "wait": "250ms", "size": "64KiB", "after": "p95"}
    assert scaled(settings, 0.1) == settings | {"wait": "25ms"}
    assert scaled(["1h", 0, None, True], 0.5) == ["1800000ms", 0, None, True]


def test_settings_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="hedging"):
        write(tmp_path / "x.yaml", {"hedging": "on"}, ENDPOINT, 0.1)


@pytest.mark.parametrize("lever", LEVERS)
def test_each_lever_changes_the_settings_and_they_stay_settings(lever: str, tmp_path: Path) -> None:
    fast = fast_settings()
    off = settings_without(lever, fast)
    assert off != fast
    assert fast == fast_settings(), "the original is not touched"
    assert load(write(tmp_path / "x.yaml", off, ENDPOINT, 0.1), {}).routes


def test_a_lever_switches_off_what_its_name_says(tmp_path: Path) -> None:
    fast = fast_settings()

    def off(lever: str) -> Any:
        return load(write(tmp_path / "x.yaml", settings_without(lever, fast), ENDPOINT, 1.0), {})

    assert all(c.model is None for route in off("model").routes for c in route.candidates)
    assert all("thinking" not in route.params.force for route in off("thinking").routes)
    assert all(route.first_content_target is None for route in off("choice").routes)
    assert [route.name for route in off("long-route").routes] == ["fast-chat"]
    assert all(route.hedge == "off" for route in off("hedge").routes)
    assert off("warm").pool.warm_connections == 0
    assert all(route.stream.text_buffer_size > 1000 for route in off("chunks").routes)


# --- asking ---------------------------------------------------------------------------------------


def test_arrivals_are_as_many_and_as_frequent_as_asked() -> None:
    moments = poisson(50.0, 2000, Random(1))
    assert moments == sorted(moments)
    assert len(moments) == 2000
    assert moments[-1] == pytest.approx(40.0, rel=0.1)


async def test_arrivals_do_not_wait_for_answers_and_workers_do() -> None:
    """Each answer waits for others to be asked: only so many at a time get through."""
    meeting = asyncio.Barrier(6)
    together = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await meeting.wait()
        together -= 1
        text = 'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n'
        return web.Response(text=text, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/chat/completions"))
        asked = [Ask("w", n, url, b"{}", usual_headers("k"), timeout=10) for n in range(6)]
        async with Asking.ready(ssl.create_default_context(), time.monotonic) as asking:
            await asking.at_moments((0.001 * n, ask) for n, ask in enumerate(asked))
            meeting, most = asyncio.Barrier(2), 0
            await asking.in_turn(asked, 2)
    assert most == 2
    assert [s.outcome for s in asking.samples] == ["complete"] * 12
    assert all(s.visible == 1 for s in asking.samples)


# --- figures of lumosai ---------------------------------------------------------------------------


def test_figures_are_seconds_of_the_service() -> None:
    found = lumosai(v1=28.8, proxied=2.0)
    one = cell(found, "proxied", "medium")
    assert one is not None
    assert (one.first_content, one.ttfb, one.total) == pytest.approx((2.0, 1.5, 2.5))
    assert times_better(found, "proxied", "medium") == pytest.approx(14.4)
    assert cell(found, "v2", "medium") is None


def test_a_scene_with_failures_only_reaches_nothing() -> None:
    found = lumosai(v1=28.8)
    found = replace(found, samples=[*found.samples, sample("proxied", "short", outcome="cut")])
    assert not any(goal.reached for goal in goals(found))


def test_a_goal_is_reached_exactly_at_its_edge() -> None:
    at_edge = {(g.kind, g.scene): g.reached for g in goals(lumosai(v1=15.0, proxied=5.0))}
    assert at_edge["first_content", "long"]
    assert at_edge["times", "long"]
    beyond = {g.kind: g.reached for g in goals(lumosai(v1=15.0, proxied=5.01))}
    assert not beyond["first_content"]
    assert not beyond["times"]


def test_a_levers_share_is_what_is_lost_of_the_saving_without_it() -> None:
    found = lumosai(v1=10.0, proxied=2.0, without_hedge=4.0)
    hedge = next(share for share in shares(found) if share.lever == "hedge")
    assert hedge.lost == pytest.approx((2.0,) * len(SCENES))
    assert hedge.of_saving == pytest.approx(0.25)
    warm = next(share for share in shares(found) if share.lever == "warm")
    assert warm.of_saving is None


def test_stages_of_the_proxy_come_from_its_log_and_add_up() -> None:
    found = lumosai(v1=28.8, proxied=2.0)
    proxied, direct = split(found, "proxied", "short"), split(found, "v1", "short")
    assert proxied is not None
    assert direct is not None
    assert (
        proxied.to_headers,
        proxied.to_first_token,
        proxied.to_first_content,
        proxied.to_end,
    ) == (pytest.approx((1.0, 0.2, 0.1, 0.2)))
    assert direct.to_first_content == pytest.approx(28.8 - 1.5)
    more = replace(found, lines={"proxied": [logged("proxied-short-0", attempt_count=2)]})
    assert split(more, "proxied", "short") is None


def test_it_is_told_how_much_thinking_of_the_baseline_the_goal_rests_on() -> None:
    # 1.5 s until V1's first token: three times 2 s need 4.5 s of thinking.
    assert least_thinking(lumosai(v1=28.8, proxied=2.0), "short") == pytest.approx(4.5)


# --- figures of tail ------------------------------------------------------------------------------


def tail_found(**fields: Any) -> TailFound:
    quick = [sample("direct", "tail", 0.4, number=n) for n in range(99)]
    quick += [sample("proxied", "tail", 0.402, number=n) for n in range(99)]
    late = [sample("direct", "tail", 9.0, number=99), sample("direct", "tail", 9.0, number=100)]
    late += [sample("proxied", "tail", 0.9, number=99), sample("proxied", "tail", 0.9, number=100)]
    slow = [sample(way, "slow", 5.0) for way in ("direct", "proxied")]
    lines = [logged(f"proxied-tail-{n}", attempt_count=2 if n > 97 else 1) for n in range(101)]
    lines += [logged("proxied-slow-0")]
    scaled = replace(CONDITIONS, time_scale=0.5)
    return replace(TailFound(scaled, [*quick, *late, *slow], lines), **fields)


def test_the_medians_difference_is_in_milliseconds_of_the_machine() -> None:
    assert median_apart(tail_found()) == pytest.approx(2.0)


def test_extra_attempts_are_counted_in_the_log() -> None:
    proxied = figures(tail_found(), "proxied", "tail")
    assert proxied is not None
    assert proxied.attempts == 104
    assert proxied.extra == pytest.approx(3 / 101)
    assert (proxied.p50, proxied.p99) == pytest.approx((0.804, 1.8))


@pytest.mark.parametrize(
    ("moments", "most"),
    [([], 0), ([1.0], 1), ([0.0, 0.5, 0.99, 1.0], 3), ([0.0, 5.0, 5.1, 5.2, 9.0], 3)],
)
def test_the_busiest_second_is_any_second(moments: list[float], most: int) -> None:
    assert busiest(moments, 1.0) == most


def test_an_outage_is_told_from_log_and_arrivals() -> None:
    down = [
        sample("proxied", "down", number=0, started=1.0),
        sample("proxied", "down", number=1, started=10.5, outcome="status_502"),
        sample("proxied", "down", number=2, started=11.0, outcome="status_503"),
        sample("proxied", "down", number=3, started=20.25, outcome="status_503"),
        sample("proxied", "down", number=4, started=20.5),
    ]
    counts = (1, 2, 0, 0, 1)
    found = tail_found(
        samples=down,
        lines=[logged(f"proxied-down-{n}", attempt_count=c) for n, c in enumerate(counts)],
        arrivals=[float(n) for n in range(10)] + [20.5, 20.6, 20.7],
        down_at=10.0,
        up_at=20.0,
        steady_from=0.0,
    )
    gone = outage(found)
    assert gone is not None
    assert (gone.seconds, gone.requests, gone.attempts, gone.answered) == (20.0, 2, 2, 0)
    assert gone.steady == pytest.approx(0.5)
    assert (gone.peak, gone.steady_peak) == (3.0, 1.0)
    assert gone.first_answer == pytest.approx(1.0)
    assert gone.recovered == pytest.approx(0.5)


def test_the_goals_of_tail_are_judged_in_the_right_direction() -> None:
    kept = {goal.name: goal.reached for goal in tail_goals(tail_found())}
    assert kept["p99"]
    assert kept["p50"]
    assert kept["extra"]
    assert kept["slow_extra"]
    assert not kept["down_attempts"], "it was never gone: nothing was shown"


def test_tail_asks_at_least_as_much_as_it_was_told() -> None:
    quick, slow, down = phases(2000)
    assert (quick.requests, quick.ways) == (2000, ("direct", "proxied"))
    assert down.rate == 100.0
    assert down.requests >= 100 * 100
    in_flight = 18.0 * slow.rate
    assert in_flight < 200


# --- reports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [lumosai_words.WORDS, tail_words.WORDS])
def test_both_languages_say_the_same_with_the_same_numbers(
    words: Mapping[str, Mapping[str, str]],
) -> None:
    english, chinese = words["en"], words["zh"]
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert _fields(text) == _fields(chinese[name]), name
        assert text.count(";") == chinese[name].count(";") or "heads" not in name, name
        if "heads" not in name and name not in _UNTRANSLATED:
            assert re.search(r"[\u4e00-\u9fff]", chinese[name]), name


_UNTRANSLATED = {"env_version"}


def _fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def full() -> Found:
    ways = {without(lever).name.replace("-", "_", 1): 2.5 for lever in LEVERS}
    samples = [s for way in (V1, V2, PROXIED) for s in lumosai(**{way.name: 5.0}).samples]
    samples += [sample(w.replace("_", "-", 1), s.name, 0.25) for w in ways for s in SCENES]
    return replace(lumosai(), samples=samples)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_says_first_that_the_upstream_is_simulated(lang: str) -> None:
    for text in (
        lumosai_report.markdown(full(), lang),
        tail_report.markdown(tail_found(), lang),
    ):
        first = "\n".join(text.splitlines()[:7])
        assert {"en": "upstream is simulated", "zh": "上游是模拟的"}[lang] in first
        assert "`glm-api.md`" in first
        assert {"en": "cannot prove", "zh": "不能证明"}[lang] in first
        assert f"--lang {lang} --requests 1 --seed 7" in text
        assert "{" not in text


def test_the_report_of_lumosai_has_the_sections_of_the_one_it_repeats() -> None:
    text = lumosai_report.markdown(full(), "en")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Test environment",
        "## Test results",
        "## Comparison with the V1 baseline",
        "## What each lever contributes",
        "## Goals",
        "## Where the time went",
        "## Problem analysis",
        "## Next steps",
    ]
    assert "| **not reached** |" in text, "V1 itself took 5 s"
    assert "| reached |" in text
    for lever in LEVERS:
        assert lumosai_words.WORDS["en"][f"lever_{lever}"] in text


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_run_without_one_answer_is_told_and_not_a_crash(lang: str) -> None:
    failed = [
        replace(sample(way, scene.name), outcome="unreachable", detail="nobody there")
        for way in ("v1", "v2", "proxied")
        for scene in SCENES
    ]
    text = lumosai_report.markdown(replace(lumosai(), samples=failed), lang)
    assert "nobody there" in text
    assert f"| {lumosai_words.WORDS[lang]['reached']} |" not in text
    tail = tail_report.markdown(replace(tail_found(), samples=[], lines=[]), lang)
    assert tail_words.WORDS[lang]["not_reached"] in tail


def test_the_json_holds_every_sample_and_the_logs() -> None:
    report = json.loads(lumosai_report.as_json(full()))
    assert report["simulated"] is True
    assert len(report["samples"]) == len(full().samples)
    assert report["access_log"]["proxied"]
    tail = json.loads(tail_report.as_json(tail_found()))
    assert tail["phases"]["tail"]["proxied"]["outcomes"] == {"complete": 101}
    assert {goal["name"]: goal["reached"] for goal in tail["goals"]}["p99"]


def test_a_busy_machine_is_told() -> None:
    found = replace(full(), conditions=replace(CONDITIONS, busy=0.9))
    assert "more than 60 % busy" in lumosai_report.markdown(found, "en")
    unknown = replace(full(), conditions=replace(CONDITIONS, busy=None, own=None))
    assert "processors in use: not known" in lumosai_report.markdown(unknown, "en")


def test_the_machine_is_described_and_its_use_is_a_share() -> None:
    assert describe()
    busy = Busy([os.getpid()])
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    share, own = busy.share(), busy.own()
    assert share is None or 0 <= share <= 1
    assert own is None or own > 0


# --- the whole ------------------------------------------------------------------------------------


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_tail_runs_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    report, data = tmp_path / "report.md", tmp_path / "report.json"
    done = bench(
        folder,
        *("--suite", "tail", "--requests", "5", "--time-scale", "0.05", "--lang", "zh"),
        *("--markdown", str(report), "--json", str(data)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert report.read_text() == done.stdout
    assert list(folder.iterdir()) == []
    found = json.loads(data.read_text())
    for way in ("direct", "proxied"):
        assert found["phases"]["tail"][way]["complete"] == 5
        assert found["phases"]["slow"][way]["p50"] > 6
    assert found["outage"]["requests"] > 0
    assert found["outage"]["answered"] < found["outage"]["requests"]
    assert len(found["access_log"]) == sum(s["way"] == "proxied" for s in found["samples"])


def test_lumosai_runs_to_its_end_and_shows_the_causes(tmp_path: Path) -> None:
    data = tmp_path / "report.json"
    done = bench(
        tmp_path,
        "--suite",
        "lumosai",
        "--requests",
        "1",
        "--time-scale",
        "0.02",
        "--json",
        str(data),
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(data.read_text())
    scenes = found["scenes"]
    assert scenes["medium"]["v1"]["first_content"] > 12, "it thinks"
    assert scenes["long"]["v2"]["first_content"] > 6, "it stands in the line of long prompts"
    assert scenes["long"]["proxied"]["models"] != ["glm-4-flash"]
    both = scenes["medium"]["without-model+thinking"]
    assert both["first_content"] > 12, "the same model, and it thinks again"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--suite", "fast"), "'fast' is not one of"),
        (("--suite", "tail", "http://127.0.0.1:1/v1"), "give a URL or --suite"),
        (("--suite", "tail", "--model", "x"), "--model: not with --suite"),
        (("http://127.0.0.1:1/v1", "--lang", "zh"), "--lang: not with a URL"),
        (("--suite", "tail", "--time-scale", "0"), "--time-scale"),
    ],
)
def test_wrong_arguments_end_with_2(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(group, ["bench", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr


def test_every_bundled_route_of_fast_names_known_models() -> None:
    models = yaml.safe_load((ROOT / "config/models.yaml").read_text())["models"]
    named = {c["model"] for route in fast_settings()["routes"] for c in route["candidates"]}
    assert named <= models.keys()
