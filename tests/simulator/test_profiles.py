"""The seconds of each profile: made by its causes, and as large as they were measured."""

from __future__ import annotations

from random import Random
from statistics import median, quantiles
from typing import Any

import pytest

from proxy.simulator.call import glm_call
from proxy.simulator.distributions import Fixed, LogNormal, OneOf, Uniform
from proxy.simulator.faults import ORDINARY
from proxy.simulator.line import Crowd, Line
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

MEMORIES = "用户上次问过监督学习。" * 335
"""About 2,300 tokens."""


def scripts(
    model: str, *messages: str, in_line: float | None = None, **fields: Any
) -> list[Script]:
    """What many callers get."""
    asked = [{"role": "user", "content": text} for text in messages]
    call = glm_call({"model": model, "messages": asked, **fields})
    behaviour = PROFILES["lumosai"].behaviour(model)
    return [write_script(call, behaviour, ORDINARY, 0, Random(n), in_line) for n in range(400)]


def first_visible(answers: list[Script]) -> float:
    """The median; of a caller that opens a connection first."""
    return PROFILES["lumosai"].connect + median(visible(answer)[0] for answer in answers)


@pytest.fixture(scope="module")
def thoughtful() -> list[Script]:
    """What many callers of glm-4.6 get: a second to make."""
    return scripts("glm-4.6", MEMORIES, MEDIUM)


def test_glm_4_6_shows_nothing_for_28_8_seconds_and_then_67_chunks(
    thoughtful: list[Script],
) -> None:
    assert thoughtful[0].usage.prompt == pytest.approx(2300, rel=0.05)
    assert first_visible(thoughtful) == pytest.approx(28.8, abs=1)
    times = visible(thoughtful[0])
    assert len(times) == 67
    assert times[-1] - times[0] == pytest.approx(0.8, abs=0.15)


def test_its_silence_is_thinking(thoughtful: list[Script]) -> None:
    thinking = first_visible(thoughtful)
    without = first_visible(scripts("glm-4.6", MEMORIES, MEDIUM, thinking={"type": "disabled"}))
    assert thinking - without == pytest.approx(27.0, abs=1)
    assert without < 2.5


def test_glm_4_flash_takes_15_6_seconds_for_a_long_prompt_and_then_21_chunks() -> None:
    answers = scripts("glm-4-flash", MEMORIES * 4, MEDIUM, in_line=14.0)
    assert first_visible(answers) == pytest.approx(15.6, abs=0.3)
    times = visible(answers[0])
    assert len(times) == 21
    assert times[-1] - times[0] == pytest.approx(0.1, abs=0.02)
    assert answers[0].usage.reasoning == 0


def test_one_sentence_from_glm_4_flash_takes_1_6_seconds_in_all() -> None:
    ended = median(answer.ended_at for answer in scripts("glm-4-flash", SHORT))
    assert PROFILES["lumosai"].connect + ended == pytest.approx(1.6, abs=0.1)


def test_a_queue_is_short_or_long_and_hardly_between() -> None:
    heads = [answer.head_at for answer in scripts("glm-4-flash", SHORT)]
    assert 0.08 < sum(head > 2 for head in heads) / len(heads) < 0.22
    assert sum(1.7 < head < 2.3 for head in heads) < 0.03 * len(heads)


# --- the line of long prompts ------------------------------------------------------------------


def crowd() -> Crowd:
    found = PROFILES["lumosai"].behaviour("glm-4-flash").long_line
    assert found is not None
    return found


def test_a_long_prompt_waits_about_14_seconds_in_the_line() -> None:
    line = Line(crowd(), Random(1))
    waits = [line.join(500.0 * n) for n in range(1, 300)]
    assert median(waits) == pytest.approx(14.0, abs=1.0)
    assert min(waits) > 4


def test_who_comes_later_to_the_line_starts_later() -> None:
    line = Line(crowd(), Random(1))
    starts = [now + line.join(now) for now in (100.0, 100.0, 100.1, 107.0)]
    assert starts == sorted(starts)
    assert starts[2] - starts[0] > 1


def test_without_others_nobody_waits_until_the_places_are_taken() -> None:
    line = Line(Crowd(places=2, holds=Fixed(4.0), others=1e-9, room=7), Random(1))
    assert [line.join(now) for now in (10.0, 10.0, 11.0, 20.0)] == [0.0, 0.0, 3.0, 0.0]


# --- tail and slow -----------------------------------------------------------------------------


def test_the_tail_is_four_per_cent_of_six_to_thirty_seconds() -> None:
    firsts = [script("tail", "glm-4.6", MEDIUM, seed).tokens[0].at for seed in range(4000)]
    late = [first for first in firsts if first > 5]
    assert len(late) / len(firsts) == pytest.approx(0.04, abs=0.01)
    assert min(late) >= 6
    assert max(late) <= 30
    assert median(firsts) == pytest.approx(0.82, abs=0.03)
    slow = [script("slow", "glm-4.6", MEDIUM, seed).tokens[0].at for seed in range(100)]
    assert min(slow) >= 6


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


def test_prefill_grows_with_the_prompt_and_not_with_what_is_cached() -> None:
    behaviour = PROFILES["default"].behaviour("glm-4.6")
    messages = [{"role": "user", "content": "word " * 20_000}]
    call = glm_call({"model": "glm-4.6", "messages": messages})

    def first(cached: int) -> float:
        return write_script(call, behaviour, ORDINARY, cached, Random(1)).tokens[0].at

    assert first(0) - first(20_000) == pytest.approx(20_000 * behaviour.prefill)
