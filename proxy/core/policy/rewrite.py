"""The body that goes upstream: the client's own bytes, unless a route changes something.

A change touches the values of top-level fields and nothing else: spacing, order, number spellings
and the prompt stay byte for byte, which also keeps the upstream's prompt cache warm.

What a route changed must be acceptable to the model that serves it, so those fields are fitted to
the model's capability: all fields when the model was replaced, else the ones the route set. What
the client said to the model it asked for is for the upstream to judge. Tools are never taken away:
a model without them should say so rather than answer as if none had been offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.config import Params
from proxy.core.policy.capability import EFFORTS, Capability
from proxy.core.wire.members import members, splice
from proxy.core.wire.request import ChatRequest

UNTOUCHABLE: Final = frozenset({"messages", "model", "stream", "system"})
"""The prompt; the model, which candidates set; and how the answer comes."""

_LEAST_BUDGET: Final = 1024
"""Anthropic's smallest `thinking.budget_tokens`; it must stay below `max_tokens`."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A body, and what is different in it: `model`, `temperature=0.5`, `-tool_stream`."""

    body: bytes
    changes: tuple[str, ...] = ()


def checked(params: Params) -> Params:
    """`params`, when a request can carry them. Raises ValueError.

    `fill` is for fields where the client is silent (absent or null), `force` for all; null in
    `force` removes the field. `thinking: disabled` stands for the dialect's own object.
    """
    for name, value in (*params.fill.items(), *params.force.items()):
        if name in UNTOUCHABLE:
            raise ValueError(f"params must not set {name}; a model is set by candidates")
        if name == "thinking" and not _is_thinking(value):
            raise ValueError("thinking must be enabled, disabled or an object")
        if not _is_json(value):
            raise ValueError(f"{name} has a value that JSON has no words for; use another")
    return params


def _is_json(value: object) -> bool:
    """Not an infinity, not a number that no double and no 64 bits hold."""
    try:
        return bool(orjson.loads(orjson.dumps(value)) == value)
    except orjson.JSONEncodeError:
        return False


def _is_thinking(value: object) -> bool:
    return value in (None, "enabled", "disabled") or isinstance(value, dict)


def rewrite(
    request: ChatRequest, model: str, params: Params, capability: Capability | None
) -> Rewritten:
    """The body that asks `model`; `capability` is its record, None when it is not known."""
    draft = _Draft(request, model)
    for name, value in params.fill.items():
        if request.fields.get(name) is None:
            draft.put(name, value)
    for name, value in params.force.items():
        draft.put(name, value)
    if not draft.wanted:
        return Rewritten(request.body)
    if capability is not None:
        _fit_thinking(draft, capability, forced="thinking" in params.force)
        _fit_numbers(draft, capability)
        _fit_tools(draft, capability)
    return draft.written()


class _Draft:
    """The request's fields as they are to become: the client's, with what was put over them."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self._request = request
        self.replaced = model != request.model
        self.wanted: dict[str, Any] = {"model": model} if self.replaced else {}
        self.glm = request.dialect == "openai"

    def get(self, name: str) -> Any:
        """The field as it stands; None when it is absent or null."""
        return self.wanted[name] if name in self.wanted else self._request.fields.get(name)

    def ours(self, name: str) -> bool:
        """Whether we answer for the field's value being acceptable."""
        return self.replaced or name in self.wanted

    def put(self, name: str, value: Any) -> None:
        """Set the field; None removes it."""
        if name == "thinking" and isinstance(value, str):
            value = self._thinking(value)
        self.wanted[name] = value

    def _thinking(self, kind: str) -> Any:
        """The shorthand in the dialect's own words; the client's own words if they say it."""
        present = self.get("thinking")
        if _type_of(present) == kind:
            return present
        if kind == "disabled" or self.glm:
            return {"type": kind}
        most = self.get("max_tokens")
        room = most if isinstance(most, int) else 2 * _LEAST_BUDGET
        if room <= _LEAST_BUDGET:
            return present
        return {"type": kind, "budget_tokens": max(_LEAST_BUDGET, room // 2)}

    def written(self) -> Rewritten:
        """The body with the changes that are changes."""
        fields = self._request.fields
        edits: dict[str, bytes | None] = {}
        changes = []
        for name, value in self.wanted.items():
            if _same(fields.get(name), value):
                continue
            edits[name] = None if value is None else orjson.dumps(value)
            changes.append(_word(name, value))
        if not edits:
            return Rewritten(self._request.body)
        body = self._request.body
        named = zip(fields, members(body), strict=True)
        return Rewritten(splice(body, named, edits), tuple(changes))


def _fit_thinking(draft: _Draft, capability: Capability, *, forced: bool) -> None:
    """Say the same about thinking in the words that the model takes.

    https://docs.z.ai/guides/capabilities/thinking-mode
    """
    kind = capability.thinking
    if draft.ours("thinking"):
        if kind in ("none", "forced"):
            draft.put("thinking", None)
        elif kind == "effort" and _type_of(draft.get("thinking")) == "disabled":
            # Least effort is as near to no thinking as such a model comes.
            draft.put("thinking", None)
            if draft.glm and (forced or draft.get("reasoning_effort") is None):
                draft.put("reasoning_effort", capability.efforts[0])
    effort = draft.get("reasoning_effort")
    if effort is None or effort in capability.efforts or not draft.ours("reasoning_effort"):
        return
    if effort == "none" and kind == "toggle" and draft.get("thinking") is None:
        draft.put("thinking", "disabled")
    draft.put("reasoning_effort", _nearest(effort, capability))


def _nearest(effort: Any, capability: Capability) -> str | None:
    """The least accepted effort that is not below `effort`, or the most there is."""
    if effort not in EFFORTS or not capability.efforts:
        return None
    rank = EFFORTS.index(effort)
    above = (one for one in capability.efforts if EFFORTS.index(one) >= rank)
    return next(above, capability.efforts[-1])


def _fit_numbers(draft: _Draft, capability: Capability) -> None:
    for name, limits in (("temperature", capability.temperature), ("top_p", capability.top_p)):
        value = draft.get(name)
        if limits is not None and draft.ours(name) and _is_number(value):
            draft.put(name, round(min(max(value, limits[0]), limits[1]), 2))
    for name in ("max_tokens", "max_completion_tokens"):
        value = draft.get(name)
        most = capability.max_output
        if most is not None and draft.ours(name) and _is_number(value) and value > most:
            draft.put(name, most)


def _fit_tools(draft: _Draft, capability: Capability) -> None:
    """GLM takes `tool_choice: auto` only, and `tool_stream` from GLM-4.6 on."""
    choice = draft.get("tool_choice")
    if draft.glm and draft.ours("tool_choice") and (choice == "required" or _is_object(choice)):
        draft.put("tool_choice", "auto")
    if draft.get("tool_stream") and draft.ours("tool_stream") and not capability.tool_stream:
        draft.put("tool_stream", None)


def _type_of(thinking: Any) -> Any:
    return thinking.get("type") if isinstance(thinking, dict) else None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """Whether two parsed values are one JSON value; Python alone takes true for 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _word(name: str, value: Any) -> str:
    if name == "model":
        return name
    if value is None:
        return f"-{name}"
    short = _type_of(value) if name == "thinking" else value
    if isinstance(short, str) and len(short) <= 32:
        return f"{name}={short}"
    if isinstance(short, int | float):
        return f"{name}={orjson.dumps(short).decode()}"
    return name
