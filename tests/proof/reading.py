"""The load client's own reader of answers: it shares nothing with the proxy but the standard.

Both dialects are read: which one it is shows in the events themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE = re.compile(rb"\r\n|\n|\r")
_COUNTED = {
    "input": ("prompt_tokens", "input_tokens"),
    "output": ("completion_tokens", "output_tokens"),
}


@dataclass(slots=True)
class Reading:
    """What a client has understood of an answer. Times are the caller's, in seconds."""

    first_byte: float | None = None
    first_token: float | None = None
    first_content: float | None = None
    last_event: float | None = None
    gaps: list[float] = field(default_factory=list)
    """Seconds from each event to the next. The silence before an error is left out: most are told
    by the proxy, when it has waited long enough, and are no events of the upstream's."""
    events: int = 0
    ended: bool = False
    """The dialect's own end event came."""
    failed: bool = False
    """An error was told in the stream."""
    tokens: dict[str, int] = field(default_factory=dict)
    comments: int = 0
    _held: bytes = b""

    def take(self, data: bytes, now: float) -> None:
        """Bytes of an event stream, as they came."""
        if self.first_byte is None:
            self.first_byte = now
        self._held += data
        while found := _BLANK.search(self._held):
            block, self._held = self._held[: found.start()], self._held[found.end() :]
            self._block(block, now)

    def whole(self, body: bytes, now: float) -> None:
        """A whole answer in JSON."""
        if self.first_byte is None:
            self.first_byte = now
        value = _object(body)
        self.failed = "error" in value
        self.ended = bool(value) and not self.failed
        self._count(value)

    def _block(self, block: bytes, now: float) -> None:
        lines = _LINE.split(block.removeprefix(b"\xef\xbb\xbf"))
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        if not data or not b"".join(data):
            self.comments += 1
            return
        joined = b"\n".join(data)
        value = {} if joined == b"[DONE]" else _object(joined)
        if self.last_event is not None and "error" not in value:
            self.gaps.append(now - self.last_event)
        self.last_event = now
        self.events += 1
        self.ended = self.ended or joined == b"[DONE]"
        self._event(value, now)

    def _event(self, value: Mapping[str, Any], now: float) -> None:
        self.ended = self.ended or value.get("type") == "message_stop"
        self.failed = self.failed or "error" in value
        self._count(value)
        visible = _visible(value)
        if visible is None:
            return
        if self.first_token is None:
            self.first_token = now
        if visible and self.first_content is None:
            self.first_content = now

    def _count(self, value: Mapping[str, Any]) -> None:
        message = value.get("message")
        usage = value.get("usage") or (message.get("usage") if isinstance(message, dict) else None)
        if not isinstance(usage, dict):
            return
        for name, fields in _COUNTED.items():
            for one in fields:
                if isinstance(usage.get(one), int):
                    self.tokens[name] = usage[one]


def _visible(value: Mapping[str, Any]) -> bool | None:
    """Whether the event's token is visible; None when it has no token."""
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        delta = choices[0].get("delta") or {}
        if delta.get("content") or delta.get("tool_calls"):
            return True
        return False if delta.get("reasoning_content") else None
    delta = value.get("delta")
    if value.get("type") == "content_block_delta" and isinstance(delta, dict):
        return not delta.get("thinking") if delta.get("thinking") or delta.get("text") else None
    return None


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
