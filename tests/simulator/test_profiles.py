"""The seconds of each profile: made by its causes, and as large as they were measured."""

from __future__ import annotations

from random import Random
from statistics import median, quantiles
from typing import Any

import pytest

from proxy.simulator.call import glm_call
from proxy.simulator.distributions import Fixed, LogNormal, OneOf, Uniform
from proxy.simulator.faults import ORDINARY
from proxy.simulator.profiles import PROFILES
from proxy.simulator.script import Kind, Script, write_script

MEDIUM = "请介绍机器学习的基本概念"
SHORT = "请用一句话介绍人工智能"


def script(profile: str, model: str, prompt: str, seed: int = 1, **fields: Any) -> Script:
    messages = [{"role": "user", "content": prompt}]
    call = glm_call({"model": model, "messages": messages, **fields})
    behaviour = PROFILES[profile].behaviour(call.model.name)
    return write_script(call, behaviour, ORDINARY, 0, Random(seed))


def visible(answer: Script) -> list[float]:
    return [token.at for token in answer.tokens if token.kind is Kind.CONTENT]


def test_every_profile_knows_every_model() -> None:
    for profile in PROFILES.values():
        assert profile.behaviours[-1][0] == "*"


def test_distributions_draw_what_they_say() -> None:
    random = Random(1)
    assert Fixed(3).draw(random) == 3
    assert all(1 <= Uniform(1, 2).draw(random) < 2 for _ in range(100))
    assert median(LogNormal(5, 0.5).draw(random) for _ in range(4000)) == pytest.approx(5, rel=0.1)
    mixed = OneOf(((0.25, Fixed(0)), (0.75, Fixed(1))))
    assert sum(mixed.draw(random) for _ in range(4000)) == pytest.approx(3000, rel=0.1)


# --- lumosai: the starting report --------------------------------------------------------------


def test_glm_4_6_shows_nothing_for_28_8_seconds_and_then_67_chunks() -> None:
    answer = script("lumosai", "glm-4.6", MEDIUM)
    times = visible(answer)
    assert times[0] == pytest.approx(28.8, abs=0.05)
    assert len(times) == 67
    assert times[-1] - times[0] == pytest.approx(0.8, abs=0.05)


def test_its_silence_is_thinking() -> None:
    thinking = visible(script("lumosai", "glm-4.6", MEDIUM))
    without = visible(script("lumosai", "glm-4.6", MEDIUM, thinking={"type": "disabled"}))
    assert thinking[0] - without[0] == pytest.approx(27.0, abs=0.1)
    assert without[0] < 2


def test_glm_4_flash_takes_15_6_seconds_and_then_21_chunks() -> None:
    answer = script("lumosai", "glm-4-flash", MEDIUM)
    times = visible(answer)
    assert times[0] == pytest.approx(15.6, abs=0.05)
    assert len(times) == 21
    assert answer.ended_at == pytest.approx(15.7, abs=0.05)
    assert answer.usage.reasoning == 0


def test_one_sentence_from_glm_4_flash_takes_1_6_seconds_in_all() -> None:
    assert script("lumosai", "glm-4-flash", SHORT).ended_at == pytest.approx(1.6, abs=0.05)


# --- default: published measurements -------------------------------------------------------------


def heads(model: str) -> list[float]:
    return [
        script("default", model, "Tell me more", seed, max_tokens=1).head_at for seed in range(600)
    ]


def test_the_free_models_queue_is_short_or_long_and_hardly_between() -> None:
    times = heads("glm-4.7-flash")
    assert median(times) == pytest.approx(0.75, abs=0.15)
    assert sum(1.5 < t < 4 for t in times) < 0.05 * len(times)
    assert 0.25 < sum(t > 4 for t in times) / len(times) < 0.45
    assert max(times) > 20


def test_a_paid_model_is_mostly_prompt() -> None:
    times = heads("glm-4.6")
    assert 0.5 < median(times) < 0.9
    assert sum(t > 2 for t in times) < 0.25 * len(times)


def test_glm_4_5_air_is_as_slow_as_a_router_measured() -> None:
    calls = [
        script("default", "glm-4.5-air", "Tell me more", seed, max_tokens=1) for seed in range(600)
    ]
    cuts = quantiles((call.tokens[0].at for call in calls), n=20)
    assert cuts[9] == pytest.approx(2.5, abs=0.6)
    assert cuts[18] == pytest.approx(6.5, abs=1.5)


def test_a_long_prompt_waits_for_the_share_that_glm_4_flash_gives_it() -> None:
    short = script("default", "glm-4-flash", "Tell me more")
    long = script("default", "glm-4-flash", "Tell me more" * 4000)
    assert short.tokens[0].at < 1.5
    assert long.head_at > 5


def test_prefill_grows_with_the_prompt_and_not_with_what_is_cached() -> None:
    behaviour = PROFILES["default"].behaviour("glm-4.6")
    messages = [{"role": "user", "content": "word " * 20_000}]
    call = glm_call({"model": "glm-4.6", "messages": messages})

    def first(cached: int) -> float:
        return write_script(call, behaviour, ORDINARY, cached, Random(1)).tokens[0].at

    assert first(0) - first(20_000) == pytest.approx(20_000 * behaviour.prefill)
