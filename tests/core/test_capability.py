"""The records of config/models.yaml, and how a model's name finds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import bundled
from proxy.core.policy.capability import Capabilities, Capability, Price, load

DOCUMENTED = [
    "glm-5.3", "glm-5.3-flash", "glm-5.2", "glm-5.1", "glm-5-turbo", "glm-5", "glm-4.7",
    "glm-4.7-flash", "glm-4.7-flashx", "glm-4.6", "glm-4.5", "glm-4.5-x", "glm-4.5-air",
    "glm-4.5-airx", "glm-4.5-flash", "glm-4-flash", "glm-4-flash-250414", "glm-4-flashx-250414",
    "glm-4-32b-0414-128k", "glm-5v-turbo", "glm-4.6v", "glm-4.6v-flash", "glm-4.6v-flashx",
    "glm-4.5v", "glm-4v-flash", "glm-4.1v-thinking-flash", "glm-4.1v-thinking-flashx",
    "autoglm-phone", "glm-4-voice", "charglm-4", "emohaa",
]  # fmt: skip
RETIRED = [
    "glm-4-plus", "glm-4-air", "glm-4-airx", "glm-4-long", "glm-4v-plus", "glm-z1-flash",
    "glm-z1-air",
]  # fmt: skip
RECORD: dict[str, Any] = {"family": "x", "rank": 1, "thinking": "none"}


@pytest.fixture(scope="module")
def shipped() -> Capabilities:
    return load(yaml.safe_load(Path(bundled("models.yaml")).read_bytes()))


def test_every_documented_model_has_a_record_and_is_listed(shipped: Capabilities) -> None:
    assert sorted(shipped.listed()) == sorted(DOCUMENTED)
    for name in (*DOCUMENTED, *RETIRED):
        record = shipped.of(name)
        assert record is not None, name
        assert record.listed is (name in DOCUMENTED), name


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        ("glm-5.3", {"thinking": "effort", "context": 1_000_000, "max_output": 131072}),
        ("glm-5.2", {"thinking": "toggle", "thinks": True}),
        ("glm-5.1", {"thinking": "toggle", "efforts": ()}),
        ("glm-4.6", {"tool_stream": True, "price": Price(input=0.6, cached=0.11, output=2.2)}),
        ("glm-4.7-flash", {"free": True, "in_flight": 1, "context": 200_000}),
        ("glm-4.5", {"max_output": 98304, "tool_stream": False, "in_flight": 20}),
        ("glm-4.5-flash", {"free": True, "in_flight": 2}),
        ("glm-4-flash", {"thinking": "none", "thinks": False, "in_flight": 200, "free": True}),
        ("glm-4-flash-250414", {"max_output": 16384, "in_flight": 30}),
        ("glm-4.1v-thinking-flash", {"thinking": "forced", "in_flight": 5}),
        ("glm-z1-airx", {"thinking": "forced", "free": False}),
        ("charglm-4", {"tools": False, "max_output": 4095}),
    ],
)
def test_records_say_what_is_documented(
    shipped: Capabilities, model: str, facts: dict[str, object]
) -> None:
    record = shipped.of(model)
    assert record is not None
    assert {name: getattr(record, name) for name in facts} == facts
    assert record.temperature == (0, 1)
    assert record.top_p == (0.01, 1)


@pytest.mark.parametrize("model", ["", "gpt-4o", "GLM-4.6", "glm-4.6 ", "glm-9", "glm-*", "[", "*"])
def test_an_unknown_model_has_no_record(shipped: Capabilities, model: str) -> None:
    assert shipped.of(model) is None


def test_the_name_wins_then_the_first_pattern() -> None:
    models = load(
        {
            "models": {
                "glm-*": RECORD | {"family": "any"},
                "glm-4*": RECORD | {"family": "never"},
                "glm-4-[ab]": RECORD | {"family": "never"},
                "glm-4": RECORD | {"family": "four"},
                "glm-5": RECORD | {"family": "five", "listed": False},
            }
        }
    )
    for name, family in [("glm-4", "four"), ("glm-5", "five"), ("glm-4-a", "any")]:
        record = models.of(name)
        assert record is not None
        assert record.family == family
    assert models.listed() == ("glm-4",)


def test_records_do_not_change() -> None:
    record = Capability(family="x", rank=1, thinking="none")
    with pytest.raises(ValueError, match="frozen"):
        record.rank = 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thinking": "sometimes"}, "models.m.thinking: Input should be 'toggle'"),
        ({"nope": 1}, "models.m.nope: Extra inputs are not permitted"),
        ({"rank": "1"}, "models.m.rank: Input should be a valid integer"),
        ({"family": None}, "models.m.family"),
        ({"max_output": 0}, "models.m.max_output: Input should be greater than 0"),
        ({"temperature": [1, 0]}, "temperature must be [least, most]"),
        ({"top_p": [0, 0.5, 1]}, "models.m.top_p"),
        ({"thinking": "effort"}, "models.m: Value error, thinking: effort needs efforts"),
        ({"efforts": ["high", "low"]}, "efforts must be in the order none, minimal, low"),
        ({"efforts": ["huge"]}, "models.m.efforts.0"),
        ({"free": True, "price": {"input": 1, "output": 1}}, "free models have no price"),
        ({"price": {"input": -1, "output": 1}}, "models.m.price.input"),
    ],
)
def test_a_wrong_record_is_refused_by_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="models") as error:
        load({"models": {"m": RECORD | change}})
    assert message in str(error.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="models") as error:
        load({"models": {"a": RECORD | {"x": 1}, "b": RECORD | {"rank": None}}})
    assert str(error.value).splitlines() == [
        "models.a.x: Extra inputs are not permitted",
        "models.b.rank: Input should be a valid integer",
    ]


@pytest.mark.parametrize("document", [None, {}, {"models": []}, {"models": {}, "more": 1}])
def test_a_file_without_models_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"models|more"):
        load(document)
