"""What one answer says and when: a pure function of the call, the profile and a random source.

Times are seconds since the request was accepted, before the time scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from random import Random
from typing import NamedTuple

from proxy.simulator import texts
from proxy.simulator.call import Call
from proxy.simulator.faults import Fault
from proxy.simulator.profiles import Behaviour
from proxy.simulator.tools import ToolCall, call_tool


class Kind(Enum):
    """What a token belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL = "tool"


class Token(NamedTuple):
    """One token: the moment it is ready, and its text (a tool call's begins with an empty one)."""

    at: float
    kind: Kind
    text: str
    call: int = 0
    """Index of the tool call it belongs to."""


class Usage(NamedTuple):
    """Token counts of the answer."""

    prompt: int
    completion: int
    reasoning: int
    cached: int


@dataclass(frozen=True, slots=True)
class Script:
    """One answer."""

    head_at: float
    """The response's head leaves: the queue is over."""
    tokens: tuple[Token, ...]
    ended_at: float
    calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage
    thought: bool
    """Whether the model thought at all; usage then says how much."""

    def text(self, kind: Kind, call: int = 0) -> str:
        """All text of one kind."""
        return "".join(t.text for t in self.tokens if t.kind is kind and t.call == call)


class _Timing(NamedTuple):
    head_at: float
    first_token: float
    gap: float


def write_script(
    call: Call,
    behaviour: Behaviour,
    fault: Fault,
    cached: int,
    random: Random,
    in_line: float | None = None,
) -> Script:
    """The answer to this call; `cached` prompt tokens need no prefill.

    `in_line`: seconds waited in the line of long prompts, which then take the queue's place.
    """
    timing = _timing(call, behaviour, fault, cached, random, in_line)
    tools = tuple(call_tool(tool, call.asked, random) for tool in call.tools)
    spoken = _spoken(call, behaviour, fault, tools, random)
    kept = list(islice(spoken, call.max_tokens))
    tokens = tuple(Token(timing.first_token + i * timing.gap, *said) for i, said in enumerate(kept))
    reasoning = sum(token.kind is Kind.REASONING for token in tokens)
    natural = "tool_calls" if tools else "stop"
    reason = natural if next(spoken, None) is None else "length"
    return Script(
        head_at=timing.head_at,
        tokens=tokens,
        ended_at=timing.first_token + len(tokens) * timing.gap,
        calls=tools,
        finish_reason=fault.finish_reason or reason,
        usage=Usage(call.prompt_tokens, len(tokens), reasoning, cached),
        thought=call.effort > 0,
    )


def _timing(
    call: Call,
    behaviour: Behaviour,
    fault: Fault,
    cached: int,
    random: Random,
    in_line: float | None,
) -> _Timing:
    queue = behaviour.queue.draw(random)
    head_at = behaviour.network.draw(random) + (queue if in_line is None else in_line)
    prefill = behaviour.prefill * (call.prompt_tokens - cached)
    first = head_at + behaviour.start.draw(random) + prefill
    gap = behaviour.gap.draw(random)
    if fault.first_token is not None:
        first = fault.first_token
    if fault.gap is not None:
        gap = fault.gap
    return _Timing(min(head_at, first), first, gap)


def _spoken(
    call: Call, behaviour: Behaviour, fault: Fault, tools: tuple[ToolCall, ...], random: Random
) -> Iterator[tuple[Kind, str, int]]:
    """Everything the model would say, without a limit."""
    if call.effort > 0:
        usual = (behaviour.brief_thinking if call.brief else behaviour.thinking).draw(random)
        told = fault.thinking_tokens
        count = round(usual * call.effort) if told is None else told
        for text in _sentence(texts.thought(call.chinese, random), count, call.chinese):
            yield Kind.REASONING, text, 0
    for index, tool in enumerate(tools):
        yield Kind.TOOL, "", index
        for text in texts.pieces(tool.arguments, random):
            yield Kind.TOOL, text, index
    if not tools:
        for text in _content(call, behaviour, fault, random):
            yield Kind.CONTENT, text, 0


def _content(call: Call, behaviour: Behaviour, fault: Fault, random: Random) -> Iterable[str]:
    drawn = (behaviour.brief_answer if call.brief else behaviour.answer).draw(random)
    count = max(1, round(drawn)) if fault.tokens is None else fault.tokens
    said = texts.answer(call.chinese, random)
    if not call.json_object:
        return _sentence(said, count, call.chinese)
    words = (text for text in said if "\n" not in text and '"' not in text)
    return ('{"', "answer", '":"', *islice(words, max(0, count - 4)), '"}')


def _sentence(said: Iterator[str], count: int, chinese: bool) -> Iterator[str]:
    """Exactly `count` pieces, the last one a full stop."""
    yield from islice(said, max(0, count - 1))
    if count > 0:
        yield "。" if chinese else "."
