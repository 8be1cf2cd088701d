"""The Response object around the output. https://platform.openai.com/docs/api-reference/responses"""

from __future__ import annotations

from typing import Any, Final

from proxy.core.record import Usage
from proxy.core.wire.responses.asked import Asked

COMPLETED: Final = "completed"
INCOMPLETE: Final = "incomplete"
FAILED: Final = "failed"
IN_PROGRESS: Final = "in_progress"

_ECHOED: Final = (
    *("instructions", "max_output_tokens", "previous_response_id", "prompt_cache_key"),
    *("safety_identifier", "temperature", "top_p", "user"),
)
"""Told again as they were asked; null where they were not."""
_INCOMPLETE: Final = {
    "length": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "sensitive": "content_filter",
    "content_filter": "content_filter",
}
_BROKE_OFF: Final = frozenset({"network_error", "abort"})
"""Finish reasons of a generation that the service gave up."""
_BUSY: Final = "rate_limit_exceeded"
_NOT_LIMITS: Final = frozenset({"1300", "1301"})
"""Of GLM's codes that begin with 13 the only ones that judge what was said."""


def response_of(asked: Asked, response_id: str, created: float) -> dict[str, Any]:
    """The response as it is when it begins. `created` is unix time, in seconds."""
    fields = asked.fields
    reasoning = fields.get("reasoning") or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created),
        "completed_at": None,
        "status": IN_PROGRESS,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": fields.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": asked.store,
        "text": {"format": {"type": "text"}} | (fields.get("text") or {}),
        "tool_choice": fields.get("tool_choice") or "auto",
        "tools": fields.get("tools") or [],
        "truncation": "disabled",
        "usage": None,
        "metadata": fields.get("metadata") or {},
        **{name: fields.get(name) for name in _ECHOED},
    }


def outcome_of(finish_reason: str | None) -> tuple[str, str | None]:
    """What a generation that ended so is: its status, and why where it is not whole."""
    if finish_reason in _BROKE_OFF:
        return FAILED, None
    why = _INCOMPLETE.get(finish_reason or "")
    return (COMPLETED, None) if why is None else (INCOMPLETE, why)


def error_of(code: str | None, message: str) -> dict[str, Any]:
    """An error in a response: OpenAI's code, for those who look for it, and in `type` the one it
    came with: GLM's or ours."""
    is_limit = code is not None and code.startswith("13") and code not in _NOT_LIMITS
    known = _BUSY if is_limit else "server_error"
    return {"code": known, "message": message, "param": None, "type": code}


def usage_as(usage: Usage | None) -> dict[str, Any] | None:
    """The tokens in the Responses API's names; None where the upstream told none."""
    if usage is None:
        return None
    sent, got = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": sent,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": got,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": sent + got,
    }
