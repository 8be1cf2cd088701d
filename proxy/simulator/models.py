"""What each GLM accepts and how many requests one key may have running: data.

Sources: the vendor's OpenAPI files for the list, the rate-limit page and transcriptions of it for
the in-flight limits (they vary by account level; the numbers here are the ones users were shown).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase


class Thinking(Enum):
    """Whether a model thinks before it answers."""

    NONE = "none"
    TOGGLE = "toggle"
    """On unless `thinking: {"type": "disabled"}`."""
    FORCED = "forced"
    """Always; switching it off is refused with 1210."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model's abilities; token counts in tokens."""

    name: str
    thinking: Thinking
    context: int
    output: int
    in_flight: int
    """Requests one key may have running at a time."""
    tool_stream: bool = False
    effort: bool = False
    """`reasoning_effort` has an effect."""
    long_context_share: float = 1.0
    """Share of `in_flight` left to prompts above 8K tokens (the free glm-4-flash: 1 %)."""

    def limit(self, prompt_tokens: int) -> int:
        """How many requests with a prompt this long one key may have running."""
        share = self.long_context_share if prompt_tokens > LONG_CONTEXT else 1.0
        return max(1, int(self.in_flight * share))


LONG_CONTEXT = 8192
_K = 1024
_NONE, _TOGGLE, _FORCED = Thinking.NONE, Thinking.TOGGLE, Thinking.FORCED

_ALL = (
    Model("glm-5.3", _FORCED, 1024 * _K, 128 * _K, 20, tool_stream=True, effort=True),
    Model("glm-5.3-flash", _FORCED, 1024 * _K, 128 * _K, 20, tool_stream=True, effort=True),
    Model("glm-5.2", _TOGGLE, 1024 * _K, 128 * _K, 20, tool_stream=True, effort=True),
    Model("glm-5.1", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-5-turbo", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-5", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-4.7", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-4.7-flash", _TOGGLE, 200 * _K, 128 * _K, 1, tool_stream=True),
    Model("glm-4.7-flashx", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-4.6", _TOGGLE, 200 * _K, 128 * _K, 20, tool_stream=True),
    Model("glm-4.6v", _TOGGLE, 128 * _K, 32 * _K, 20, tool_stream=True),
    Model("glm-4.6v-flash", _TOGGLE, 128 * _K, 32 * _K, 1, tool_stream=True),
    Model("glm-4.6v-flashx", _TOGGLE, 128 * _K, 32 * _K, 20, tool_stream=True),
    Model("glm-4.5", _TOGGLE, 128 * _K, 96 * _K, 20),
    Model("glm-4.5-x", _TOGGLE, 128 * _K, 96 * _K, 20),
    Model("glm-4.5-air", _TOGGLE, 128 * _K, 96 * _K, 30),
    Model("glm-4.5-airx", _TOGGLE, 128 * _K, 96 * _K, 30),
    Model("glm-4.5-flash", _TOGGLE, 128 * _K, 96 * _K, 2),
    Model("glm-4.5v", _TOGGLE, 64 * _K, 16 * _K, 20),
    Model("glm-4.1v-thinking-flash", _FORCED, 64 * _K, 16 * _K, 5),
    Model("glm-z1-flash", _FORCED, 32 * _K, 16 * _K, 30),
    Model("glm-4-flash", _NONE, 128 * _K, 16 * _K, 200, long_context_share=0.01),
    Model("glm-4-flash-250414", _NONE, 128 * _K, 16 * _K, 30),
    Model("glm-4-flashx-250414", _NONE, 128 * _K, 16 * _K, 30),
    Model("glm-4-air", _NONE, 128 * _K, 16 * _K, 30),
    Model("glm-4-airx", _NONE, 8 * _K, 4 * _K, 30),
    Model("glm-4-plus", _NONE, 128 * _K, 4 * _K, 30),
    Model("glm-4-long", _NONE, 1024 * _K, 4 * _K, 30),
    Model("glm-4-32b-0414-128k", _NONE, 128 * _K, 16 * _K, 30),
    Model("glm-4v-flash", _NONE, 16 * _K, 1 * _K, 10),
)
MODELS = {model.name: model for model in _ALL}

# The Anthropic base takes Claude's names and serves a GLM; the answer names the GLM.
_CLAUDE = (("claude-*haiku*", "glm-4.5-air"), ("claude-*", "glm-4.7"))


def find(name: str) -> Model | None:
    """The model of this name; GLM reads names without regard to case."""
    return MODELS.get(name.lower())


def find_for_claude(name: str) -> Model | None:
    """As `find`, with Claude's names mapped."""
    served = next((glm for pattern, glm in _CLAUDE if fnmatchcase(name, pattern)), name)
    return find(served)
