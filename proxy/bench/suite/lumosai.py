"""The suite `lumosai`: the scenes, the ways and the levers of the report this project starts from.

Every way is asked the same scenes in the same order; ways differ in the model that is asked for, in
whether the proxy stands between, and in what the proxy's settings switch off.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from proxy.bench.plan import Ask, usual_headers
from proxy.bench.suite.application import Message, history, memories

Settings = dict[str, Any]
"""A settings file as YAML gives it."""

_PATH = "/chat/completions"
_LONGEST_ANSWER = 180.0
"""Seconds before the time scale."""


def _nothing(number: int) -> list[Message]:
    return []


@dataclass(frozen=True, slots=True)
class Scene:
    """One prompt and what the application sends around it."""

    name: str
    prompt: str
    around: Callable[[int], list[Message]] = _nothing


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask: the model the application names, and how it gets there."""

    name: str
    model: str
    proxied: bool
    workers: int
    """Requests at a time. One where a second would lengthen the line of long prompts."""


SCENES = (
    Scene("short", "你好"),
    Scene("medium", "请介绍机器学习的基本概念", memories),
    Scene("long", "请介绍机器学习的基本概念", history),
    Scene("sentence", "请用一句话介绍人工智能"),
)
V1 = Way("v1", "glm-4.6", proxied=False, workers=4)
V2 = Way("v2", "glm-4-flash", proxied=False, workers=1)
PROXIED = Way("proxied", "glm-4.6", proxied=True, workers=1)


def asks(way: Way, base_url: str, requests: int, seed: int, time_scale: float) -> list[Ask]:
    """Every scene so many times, in an order that is the same for every way."""
    headers = usual_headers(f"bench-{way.name}.key")
    found = []
    for scene in SCENES:
        for number in range(requests):
            own = headers | {"x-request-id": f"{way.name}-{scene.name}-{number}"}
            found.append(
                Ask(
                    way=way.name,
                    number=number,
                    url=base_url + _PATH,
                    body=_body(way.model, scene, number),
                    headers=own,
                    timeout=_LONGEST_ANSWER * time_scale,
                    scene=scene.name,
                )
            )
    Random(seed).shuffle(found)
    return found


def _body(model: str, scene: Scene, number: int) -> bytes:
    messages = [*scene.around(number), {"role": "user", "content": scene.prompt}]
    return json.dumps(
        {"model": model, "stream": True, "messages": messages}, ensure_ascii=False
    ).encode()


# --- levers: each an edit of the fast settings that switches it off -------------------------------


def _same_model(settings: Settings) -> None:
    for route in settings["routes"]:
        route["candidates"] = [{}]


def _thinking(settings: Settings) -> None:
    for route in settings["routes"]:
        route.get("params", {}).get("force", {}).pop("thinking", None)


def _both(settings: Settings) -> None:
    _same_model(settings)
    _thinking(settings)


def _no_long_route(settings: Settings) -> None:
    settings["routes"] = [
        route for route in settings["routes"] if "min_prompt" not in route.get("match", {})
    ]


def _no_choice(settings: Settings) -> None:
    for route in settings["routes"]:
        route.pop("first_content_target", None)


def _no_choice_at_all(settings: Settings) -> None:
    _no_long_route(settings)
    _no_choice(settings)


def _cold(settings: Settings) -> None:
    """A connection for each request: over HTTP/1.1, whose connections serve one at a time."""
    pool = settings.setdefault("pool", {})
    pool |= {"http2": "off", "warm_connections": 0, "idle_timeout": "2ms"}


def _held_back(settings: Settings) -> None:
    stream = settings.setdefault("stream", {})
    stream |= {"text_buffer_size": 10_000, "text_buffer_max_delay": "10m"}


def _no_hedge(settings: Settings) -> None:
    settings["hedge"] = "off"
    for route in settings["routes"]:
        route.pop("hedge", None)


LEVERS: Mapping[str, Callable[[Settings], None]] = {
    "model": _same_model,
    "thinking": _thinking,
    "model+thinking": _both,
    "long-route": _no_long_route,
    "choice": _no_choice,
    "long-route+choice": _no_choice_at_all,
    "warm": _cold,
    "chunks": _held_back,
    "hedge": _no_hedge,
}
"""What is switched off, alone; with `+`, two that can stand in for each other, both."""


def without(lever: str) -> Way:
    """The way through a proxy that has this lever switched off."""
    # Where the baseline's model thinks again, an answer takes as long as the baseline's.
    workers = V1.workers if lever == "model+thinking" else PROXIED.workers
    return Way(f"without-{lever}", PROXIED.model, proxied=True, workers=workers)


def settings_without(lever: str, fast: Settings) -> Settings:
    """The fast settings with this lever switched off."""
    settings = copy.deepcopy(fast)
    LEVERS[lever](settings)
    return settings
