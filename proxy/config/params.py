"""Settings of the request fields a route sets: what may be set, and to what.

What stands here is all there is to know about it; `core.policy.rewrite` carries it out.
"""

from __future__ import annotations

from typing import Annotated, Final

import orjson
from pydantic import Field, JsonValue, ValidationInfo, field_validator

from proxy.config.types import Flag, Section

Fields = dict[str, JsonValue]

UNTOUCHABLE: Final = frozenset({"messages", "model", "stream", "system"})
"""The prompt; the model, which candidates set; and how the answer comes."""


class Cap(Section):
    """Most the caller may ask for; also what is asked where the caller is silent."""

    max_tokens: Annotated[int, Field(strict=True, ge=1, le=1 << 20)] | None = None
    """Tokens of an answer. `max_completion_tokens` is held to it too."""


class Params(Section):
    """Request fields a route sets: `fill` where the caller is silent (absent or null), `force`
    always; null in `force` removes the field. `thinking: disabled` stands for the dialect's own
    object. What the model is known not to take is left out, or said in its words."""

    fill: Fields = Field(default_factory=dict)
    """Fields for a silent caller."""
    force: Fields = Field(default_factory=dict)
    """Fields for every caller."""
    cap: Cap = Cap()
    """Limits of what is asked for, whoever asked."""
    drop_unused_tools: Flag = False
    """Leave `tools` out where the caller says `tool_choice: none`: the prompt gets shorter."""

    @field_validator("fill", "force")
    @classmethod
    def _can_be_carried(cls, fields: Fields) -> Fields:
        refused = sorted(fields.keys() & UNTOUCHABLE)
        if refused:
            raise ValueError(f"must not set {', '.join(refused)}; a model is set by candidates")
        for name, value in fields.items():
            if name == "thinking" and not _is_thinking(value):
                raise ValueError("thinking must be enabled, disabled or an object")
            if not _is_json(value):
                raise ValueError(f"{name} has a value that JSON has no words for; use another")
        return fields

    @field_validator("force")
    @classmethod
    def _one_of_both(cls, force: Fields, info: ValidationInfo) -> Fields:
        both = sorted(force.keys() & info.data.get("fill", {}).keys())
        if both:
            raise ValueError(f"{', '.join(both)} is also in fill; keep one")
        return force


def _is_thinking(value: JsonValue) -> bool:
    return value in (None, "enabled", "disabled") or isinstance(value, dict)


def _is_json(value: JsonValue) -> bool:
    """Not an infinity, not a number that no double and no 64 bits hold."""
    try:
        return bool(orjson.loads(orjson.dumps(value)) == value)
    except orjson.JSONEncodeError:
        return False
