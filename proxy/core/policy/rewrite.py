"""The body that goes upstream: the client's own bytes, unless a route changes something.

A change touches the values of top-level fields and nothing else: spacing, order, number spellings
and the prompt stay byte for byte, which also keeps the upstream's prompt cache warm.

What a route changed must be acceptable to the model that serves it, so those fields are fitted to
the model's capability: all fields when the model was replaced, else the ones the route set. What
the client said to the model it asked for is for the upstream to judge. Tools are taken away only
where the client itself forbids their use: a model without them should say so rather than answer as
if none had been offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.config import Params
from proxy.core.policy.capability import EFFORTS, Capability
from proxy.core.wire.members import members, splice
from proxy.core.wire.request import ChatRequest

_LEAST_BUDGET: Final = 1024
"""Anthropic's smallest `thinking.budget_tokens`; it must stay below `max_tokens`."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A body, and what is different in it: `model`, `temperature=0.5`, `-tool_stream`."""

    body: bytes
    changes: tuple[str, ...] = ()


def rewrite(
    request: ChatRequest,
    model: str,
    params: Params,
    capability: Capability | None,
    *,
    stream: bool | None = None,
) -> Rewritten:
    """The body that asks `model`; `capability` is its record, None when it is not known.

    `stream` is how the answer is to come; None: as the client asked.
    """
    draft = _Draft(request, model)
    if stream is not None and stream is not request.stream:
        draft.put("stream", stream)
    _fill(draft, params.fill, request.fields)
    for name, value in params.force.items():
        draft.put(name, value)
    if params.cap.max_tokens is not None:
        _cap(draft, params.cap.max_tokens)
    if params.drop_unused_tools and _kind_of(draft.get("tool_choice")) == "none":
        draft.put("tools", None)
        draft.put("tool_choice", None)
    if not draft.wanted:
        return Rewritten(request.body)
    if capability is not None:
        _fit_thinking(draft, capability, params.force)
        _fit_numbers(draft, capability)
        _fit_tools(draft, capability)
    _fit_to_the_rest(draft, capability)
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

    def withdraw(self, name: str) -> None:
        """Leave the field as the client has it."""
        del self.wanted[name]

    def put(self, name: str, value: Any) -> None:
        """Set the field; None removes it."""
        if name == "thinking" and isinstance(value, str):
            value = self._thinking(value)
        self.wanted[name] = value

    def lower(self, name: str, most: float) -> None:
        """Set the field to `most` when it is a larger number; anything else is not for us."""
        value = self.get(name)
        if _is_number(value) and value > most:
            self.wanted[name] = most

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


def _fill(draft: _Draft, fill: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Fields for what the client did not say, neither in that word nor in another."""
    for name, value in fill.items():
        if said.get(name) is None and not _is_against(name, value, said):
            draft.put(name, value)


def _is_against(name: str, value: Any, said: Mapping[str, Any]) -> bool:
    """Whether the client said about thinking the contrary of what `name: value` would."""
    if name not in _ABOUT_THINKING:
        return False
    wish = _thinks(name, value)
    return any(
        _thinks(other, said[other]) is not wish
        for other in _ABOUT_THINKING - {name}
        if said.get(other) is not None
    )


_ABOUT_THINKING: Final = frozenset({"thinking", "reasoning_effort"})


def _thinks(name: str, value: Any) -> bool:
    """Whether a field about thinking asks for any."""
    return bool(_kind_of(value) != ("disabled" if name == "thinking" else "none"))


def _cap(draft: _Draft, most: int) -> None:
    """Hold what is asked for to `most` tokens, in both of its names.

    It is not certain that the upstream reads `max_completion_tokens`, so a caller who gave only
    that one gets both.
    """
    wanted, completion = draft.get("max_tokens"), draft.get("max_completion_tokens")
    if _is_number(completion):
        most = min(most, completion)
        draft.lower("max_completion_tokens", most)
    if wanted is None:
        draft.put("max_tokens", most)
    else:
        draft.lower("max_tokens", most)


def _fit_thinking(draft: _Draft, capability: Capability, force: Mapping[str, Any]) -> None:
    """Say the same about thinking in the words that the model takes.

    https://docs.z.ai/guides/capabilities/thinking-mode
    """
    if draft.ours("thinking"):
        _fit_switch(draft, capability, forced="thinking" in force)
    if draft.ours("reasoning_effort") and draft.get("reasoning_effort") is not None:
        _fit_effort(draft, capability, forced="reasoning_effort" in force)


def _fit_switch(draft: _Draft, capability: Capability, *, forced: bool) -> None:
    kind, effort = capability.thinking, draft.get("reasoning_effort")
    if kind in ("none", "forced"):
        draft.put("thinking", None)
    elif _type_of(draft.get("thinking")) != "disabled":
        return
    elif kind == "effort":
        # Least effort is as near to no thinking as such a model comes.
        draft.put("thinking", None)
        if draft.glm and (forced or effort is None):
            draft.put("reasoning_effort", capability.efforts[0])
    elif forced and effort is not None and "none" in capability.efforts:
        draft.put("reasoning_effort", "none")  # any other effort would say the contrary


def _fit_effort(draft: _Draft, capability: Capability, *, forced: bool) -> None:
    effort, thinking = draft.get("reasoning_effort"), draft.get("thinking")
    accepted = effort in capability.efforts
    if effort == "none" and capability.thinking == "toggle":
        contrary = forced and _type_of(thinking) == "enabled"
        if contrary or (thinking is None and not accepted):
            draft.put("thinking", "disabled")
    if not accepted:
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
        if capability.max_output is not None and draft.ours(name):
            draft.lower(name, capability.max_output)


def _fit_tools(draft: _Draft, capability: Capability) -> None:
    """GLM takes `tool_choice: auto` only, and `tool_stream` from GLM-4.6 on."""
    choice = draft.get("tool_choice")
    if draft.glm and draft.ours("tool_choice") and (choice == "required" or _is_object(choice)):
        draft.put("tool_choice", "auto")
    if draft.get("tool_stream") and draft.ours("tool_stream") and not capability.tool_stream:
        draft.put("tool_stream", None)


def _fit_to_the_rest(draft: _Draft, capability: Capability | None) -> None:
    """Withdraw or lower what a route set where the rest of the request leaves no sense in it."""
    if draft.wanted.get("tool_stream") and not (draft.glm and draft.get("tools")):
        draft.withdraw("tool_stream")
    if not draft.glm and (draft.ours("max_tokens") or draft.ours("thinking")):
        _fit_budget(draft, capability)


def _fit_budget(draft: _Draft, capability: Capability | None) -> None:
    """Anthropic's thinking budget must be below `max_tokens`."""
    thinking, most = draft.get("thinking"), draft.get("max_tokens")
    if _type_of(thinking) != "enabled" or not _is_number(most):
        return
    budget = thinking.get("budget_tokens")
    if not _is_number(budget) or budget < most:
        return
    if most > _LEAST_BUDGET:
        draft.put("thinking", thinking | {"budget_tokens": max(_LEAST_BUDGET, most // 2)})
    elif capability is None or capability.thinking == "toggle":
        draft.put("thinking", "disabled")
    else:
        draft.put("thinking", None)


def _type_of(thinking: Any) -> Any:
    return thinking.get("type") if isinstance(thinking, dict) else None


def _kind_of(value: Any) -> Any:
    """`disabled` and `none` in either spelling: the word, or an object of that type."""
    return _type_of(value) if isinstance(value, dict) else value


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
