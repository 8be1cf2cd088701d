"""The two dialects as the API needs them: read a call, write an answer, say no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.simulator import anthropic, frames, refusals
from proxy.simulator.call import Call, anthropic_call, glm_call
from proxy.simulator.checks import Fields
from proxy.simulator.faults import Fault
from proxy.simulator.frames import GlmFrames, Identity, Step
from proxy.simulator.refusals import Refusal
from proxy.simulator.reply import ANTHROPIC_EVENT_STREAM, EVENT_STREAM
from proxy.simulator.script import Script


@dataclass(frozen=True, slots=True)
class Dialect:
    """How chat is spoken below one path."""

    name: str
    read: Callable[[Fields], Call]
    stream: Callable[[Identity, Call, Script, Fault], Iterator[Step]]
    answer: Callable[[Identity, str, Script], bytes]
    refused: Callable[[Refusal, str], bytes]
    """The body of an error response; the second argument is the log id."""
    error_event: Callable[[Refusal, str], bytes]
    event_stream: bytes
    """Content-Type of a stream."""


def _glm_stream(identity: Identity, call: Call, script: Script, fault: Fault) -> Iterator[Step]:
    chunks = GlmFrames(identity, call.model.name, with_object=not fault.no_object)
    return frames.glm_stream(chunks, script, tool_stream=call.tool_stream)


def _glm_refused(refusal: Refusal, log_id: str) -> bytes:
    return refusals.glm_body(refusal)


def _glm_error_event(refusal: Refusal, log_id: str) -> bytes:
    return b"data: " + refusals.glm_body(refusal) + b"\n\n"


def _anthropic_stream(
    identity: Identity, call: Call, script: Script, fault: Fault
) -> Iterator[Step]:
    return anthropic.anthropic_stream(identity, call.model.name, script)


GLM = Dialect(
    "glm",
    glm_call,
    _glm_stream,
    frames.glm_answer,
    _glm_refused,
    _glm_error_event,
    EVENT_STREAM,
)
ANTHROPIC = Dialect(
    "anthropic",
    anthropic_call,
    _anthropic_stream,
    anthropic.anthropic_answer,
    refusals.anthropic_body,
    anthropic.error_event,
    ANTHROPIC_EVENT_STREAM,
)
