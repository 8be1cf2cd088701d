"""Who is let in where something is wrong with us: nobody. Every line that decides is made to
fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from proxy.config import Config, Endpoint, Secret
from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES, Caller, Made, make, rotated
from proxy.core.wire.target import resolve
from proxy.errors import AccessUnknown, Forbidden, ProxyError, Unauthorized
from proxy.gate import Gate

NOW = 1_800_000_000.0
CHAT = resolve("POST", "/v1/chat/completions")


class _Boom(Exception):
    pass


def a_gate(*, is_open: bool = False) -> tuple[Gate, list[str]]:
    """A gate, and what it noted of its own defects."""
    endpoint = Endpoint(name="cn", base_url="https://cn.example", api_key=Secret("k"))
    config = Config(endpoints=(endpoint,), access="open" if is_open else "keys")
    broke: list[str] = []
    gate = Gate(
        config,
        fingerprint=lambda key: f"fp-{len(key)}",
        wall=lambda: NOW,
        broke=lambda: broke.append(repr(sys.exc_info()[1])),
    )
    return gate, broke


def a_key(**changes: Any) -> Made:
    return make("team-a", bytes(range(RANDOM_BYTES)), NOW - 10, **changes)


def test_a_caller_is_a_key_of_ours() -> None:
    gate, _ = a_gate()
    made = a_key()
    gate.know({made.key.id: made.key})
    assert gate.identify(made.token, "192.0.2.1") == Caller(made.key.id, made.key.label, made.key)


def test_with_open_access_callers_are_only_told_apart() -> None:
    gate, _ = a_gate(is_open=True)
    assert gate.identify(None, "192.0.2.1") == Caller("192.0.2.1")
    assert gate.identify("sk-x", "192.0.2.1") == Caller("fp-4", "fp-4")
    gate.permit(Caller("192.0.2.1"), CHAT, "default", "glm-4.6")


def test_before_the_keys_are_known_nobody_is_let_in() -> None:
    gate, _ = a_gate()
    made = a_key()
    for token in (None, made.token, "x"):
        with pytest.raises(AccessUnknown):
            gate.identify(token, "192.0.2.1")
    gate.know({made.key.id: made.key})
    gate.identify(made.token, "192.0.2.1")
    gate.know(None)
    with pytest.raises(AccessUnknown):
        gate.identify(made.token, "192.0.2.1")


def test_a_caller_without_a_key_may_use_nothing() -> None:
    """Whatever made it: with `access: keys` only a key is somebody."""
    gate, _ = a_gate()
    with pytest.raises(Forbidden):
        gate.permit(Caller("192.0.2.1"), CHAT, "default", "glm-4.6")
    assert gate.listed(Caller("192.0.2.1"), ["glm-4.6"], lambda model: "default") == []


def test_the_words_of_a_refusal_hold_nothing_that_was_sent_but_the_model() -> None:
    gate, _ = a_gate()
    made = a_key(models=["x"])
    gate.know({made.key.id: made.key})
    with pytest.raises(Unauthorized) as refused:
        gate.identify("sk-canary", "192.0.2.1")
    assert "canary" not in refused.value.message
    with pytest.raises(Forbidden) as forbidden:
        gate.permit(gate.identify(made.token, ""), CHAT, "default", "a\r\nb\x1b[31m")
    assert (
        forbidden.value.message == r"this key is not for the model 'a\r\nb\x1b[31m' (route default)"
    )


# --- every line that can raise raises ------------------------------------------------------------


@contextmanager
def _failing(place: tuple[str, int]) -> Iterator[list[bool]]:
    """Code of these modules raises when it comes to that line of that function, once."""
    hit: list[bool] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and _is_in(frame.f_code, place[0]) and frame.f_lineno == place[1]:
            hit.append(True)
            raise _Boom("canary")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield hit
    finally:
        sys.settrace(before)


@contextmanager
def _noting(places: set[tuple[str, int]]) -> Iterator[None]:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            for file in _FILES:
                if _is_in(frame.f_code, file):
                    places.add((file, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _is_in(code: CodeType, file: str) -> bool:
    return code.co_filename == file


_FILES = (str(Path(access.__file__)), str(Path(sys.modules[Gate.__module__].__file__ or "")))


def _asked(gate: Gate, token: str) -> Caller:
    """All that decides whether a request goes on."""
    caller = gate.identify(token, "192.0.2.1")
    gate.permit(caller, CHAT, "default", "glm-4.6")
    return caller


def _scenes() -> dict[str, tuple[dict[str, Any], str]]:
    good = a_key(models=["glm-*"], routes=["def*"], expires=NOW + 10)
    anew = rotated(good.key, bytes(range(1, RANDOM_BYTES + 1)), NOW - 5, 3600)
    return {
        "a good key": ({good.key.id: good.key}, good.token),
        "a key that is rotated": ({anew.key.id: anew.key}, good.token),
        "a wrong key": ({good.key.id: good.key}, good.token[:-3] + "AAA"),
    }


@pytest.mark.parametrize("scene", _scenes())
def test_whichever_line_fails_nobody_is_let_in(scene: str) -> None:
    keys, token = _scenes()[scene]
    gate, broke = a_gate()
    gate.know(keys)
    places: set[tuple[str, int]] = set()
    with _noting(places):
        try:
            _asked(gate, token)
        except ProxyError:
            assert scene == "a wrong key"
    assert len(places) > 15
    for place in sorted(places):
        let_in: list[Caller] = []
        told: Exception | None = None
        with _failing(place) as hit:
            try:
                let_in.append(_asked(gate, token))
            except (ProxyError, _Boom) as error:
                told = error
        assert hit, place
        assert let_in == [], place
        assert told is not None
        if place[0] == _FILES[0]:  # where it is looked at: told as such, and noted
            assert isinstance(told, AccessUnknown), place
            assert "canary" not in told.message
            assert broke == ["_Boom('canary')"]
        broke.clear()


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: {key.id: None},
        lambda key: {key.id: "not a key"},
        lambda key: {key.id: 7},
    ],
)
def test_what_is_no_key_lets_nobody_in(damage: Callable[[Any], Any]) -> None:
    gate, _ = a_gate()
    made = a_key()
    gate.know(damage(made.key))
    with pytest.raises((AccessUnknown, Unauthorized)):
        gate.identify(made.token, "")
