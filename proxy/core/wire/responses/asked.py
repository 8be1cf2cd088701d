"""A request of the Responses API: read, and refused where it asks for what GLM does not have.

What only steers OpenAI's own service (a service tier, keys of its prompt cache) is taken and left
out. Whether a temperature is in range is for the upstream to judge, as with chats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.core.wire.members import MAX_DEPTH
from proxy.core.wire.request import kind_of, model_of, read_object, stream_of
from proxy.core.wire.responses.refuse import list_in, object_in, told
from proxy.errors import ClientError

Item = dict[str, Any]
"""Of an input or an output, as JSON has it."""

_REFUSED: Final = {
    "background": "answers are not made in the background; ask with stream: true and stay",
    "conversation": "conversations are not kept; use previous_response_id",
    "context_management": "nothing is compacted here; shorten the input",
    "max_tool_calls": "calls of built-in tools cannot be counted",
    "moderation": "there is no moderation to ask for",
    "prompt": "prompt templates are not kept here; send instructions and input",
    "top_logprobs": "GLM tells no log probabilities",
}
"""Asked for, they cannot be done, and left out the answer would be another one."""
_LOGPROBS: Final = "message.output_text.logprobs"
_FOUND: Final = re.compile(r"resp_[0-9a-f]{48}")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it was sent."""

    fields: Mapping[str, Any]
    """The parsed body, read only."""
    model: str
    stream: bool
    store: bool
    """The response is to be kept."""
    previous: str | None
    """The id of the response that this one follows."""
    items: tuple[Item, ...]
    """The input, a text as the message it stands for."""
    size: int
    """Bytes of the body."""


def read(body: bytes, depth: int = MAX_DEPTH) -> Asked:
    """Read `body`. Raises ClientError, which names the member that is at fault."""
    fields = read_object(body, depth)
    for name, why in _REFUSED.items():
        if fields.get(name):  # false, null, 0 and an empty list ask for nothing
            raise ClientError(f"{name} cannot be served: {why}", param=name)
    _check_include(fields)
    if fields.get("metadata") is not None:
        object_in(fields["metadata"], "metadata")
    return Asked(
        fields=fields,
        model=model_of(fields),
        stream=stream_of(fields),
        store=_store(fields),
        previous=_previous(fields),
        items=_items(fields),
        size=len(body),
    )


def is_id(text: str) -> bool:
    """Whether a response of ours can have this id."""
    return _FOUND.fullmatch(text) is not None


def _check_include(fields: Mapping[str, Any]) -> None:
    """What else can be asked for to be included is there anyway, or is of tools there are not."""
    include = fields.get("include")
    if include is not None and _LOGPROBS in list_in(include, "include"):
        raise ClientError(f"include: {_LOGPROBS} cannot be served", param="include")


def _store(fields: Mapping[str, Any]) -> bool:
    store = fields.get("store")
    if store is None:
        return True
    if not isinstance(store, bool):
        raise ClientError(f"store is {kind_of(store)}; use true or false", param="store")
    return store


def _previous(fields: Mapping[str, Any]) -> str | None:
    previous = fields.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        text = f"previous_response_id is {kind_of(previous)}, not a string"
        raise ClientError(text, param="previous_response_id")
    return previous or None


def _items(fields: Mapping[str, Any]) -> tuple[Item, ...]:
    said = fields.get("input")
    if isinstance(said, str):
        return ({"type": "message", "role": "user", "content": said},)
    if said is None:
        raise ClientError("input is missing; send a text or a list of items", param="input")
    items = list_in(said, "input")
    if not items and not fields.get("previous_response_id"):
        raise ClientError("input is empty; send at least one item", param="input")
    return tuple(object_in(item, f"input[{index}]") for index, item in enumerate(items))


def effort(fields: Mapping[str, Any]) -> str | None:
    """How hard the model is to think, in OpenAI's word; None: it is not said."""
    reasoning = fields.get("reasoning")
    if reasoning is None:
        return None
    word = object_in(reasoning, "reasoning").get("effort")
    if word is not None and word not in _EFFORTS:
        place = "reasoning.effort"
        raise ClientError(f"{place} is {told(word)}; use {', '.join(_EFFORTS)}", param=place)
    return word


_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def wants_summary(fields: Mapping[str, Any]) -> bool:
    """Whether the thinking is to be told as a summary."""
    reasoning = fields.get("reasoning")
    if not isinstance(reasoning, dict):
        return False
    return bool(reasoning.get("summary") or reasoning.get("generate_summary"))
