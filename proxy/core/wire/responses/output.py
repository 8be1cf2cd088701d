"""The items of one answer as they grow, and the events that tell of them in order.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.core.wire.responses.envelope import COMPLETED, IN_PROGRESS


@dataclass(frozen=True, slots=True)
class Family:
    """What an item with text is called, and its events."""

    kind: str
    prefix: str
    """Of the item's id."""
    place: str
    """The item's member that has the part with the text."""
    index: str
    """What the part's number is called."""
    part: str
    """Begins the names of the part's events."""
    text: str
    """Begins the names of the text's events."""
    part_type: str
    extra: tuple[tuple[str, object], ...] = ()
    """Members of the part besides its text."""
    of_text: tuple[tuple[str, object], ...] = ()
    """Members of the text's events besides it."""
    of_item: tuple[tuple[str, object], ...] = ()


_CONTENT: Final = "response.content_part"
_LOGPROBS: Final[tuple[str, list[object]]] = ("logprobs", [])
MESSAGE: Final = Family(
    *("message", "msg", "content", "content_index", _CONTENT, "response.output_text"),
    part_type="output_text",
    extra=(("annotations", []), _LOGPROBS),
    of_text=(_LOGPROBS,),
    of_item=(("role", "assistant"),),
)
REASONING: Final = Family(
    *("reasoning", "rs", "content", "content_index", _CONTENT, "response.reasoning_text"),
    part_type="reasoning_text",
    of_item=(("summary", []),),
)
"""GLM tells its thinking as it is thought."""
SUMMARY: Final = Family(
    *("reasoning", "rs", "summary", "summary_index", "response.reasoning_summary_part"),
    text="response.reasoning_summary_text",
    part_type="summary_text",
)
"""The same text for those who ask for a summary: they look nowhere else."""


class Output:
    """The items so far, and the number of the next event."""

    def __init__(self, suffix: str) -> None:
        """`suffix` makes the items' ids unlike any other response's."""
        self.items: list[dict[str, Any]] = []
        self._suffix = suffix
        self.number = 0

    def event(self, name: str, /, **fields: object) -> bytes:
        """One event."""
        data = orjson.dumps({"type": name, **fields, "sequence_number": self.number})
        self.number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)

    def place(self, item: dict[str, Any], prefix: str) -> int:
        """`item` joins the others, and gets an id. Its number among them."""
        number = len(self.items)
        item["id"] = f"{prefix}_{self._suffix}{number:04x}"
        self.items.append(item)
        return number


class Text:
    """An item whose text grows: a message, or thinking."""

    def __init__(self, output: Output, family: Family, out: list[bytes]) -> None:
        """`out` takes the events that tell of its beginning."""
        self.family = family
        self._output = output
        self._pieces: list[str] = []
        self._item: dict[str, Any] = {"type": family.kind, "status": IN_PROGRESS}
        self._item |= dict(family.of_item)
        self._item[family.place] = []
        index = output.place(self._item, family.prefix)
        self._at = {"output_index": index, "item_id": self._item["id"], family.index: 0}
        out.append(output.event("response.output_item.added", output_index=index, item=self._item))
        out.append(output.event(f"{family.part}.added", **self._at, part=self._part("")))
        # Every event of a text but for the text itself and its number.
        frame = orjson.dumps({"type": f"{family.text}.delta", **self._at, **dict(family.of_text)})
        self._head = b'event: %b\ndata: %b,"delta":' % (f"{family.text}.delta".encode(), frame[:-1])

    def add(self, text: str) -> bytes:
        """More of the text: the event of it."""
        self._pieces.append(text)
        output = self._output
        number = output.number
        output.number = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._head, orjson.dumps(text), number)

    def end(self, status: str = COMPLETED) -> list[bytes]:
        """The text is whole, or, with another `status`, ends here."""
        output, family = self._output, self.family
        text = self._keep(status)
        done = {**self._at, "text": text, **dict(family.of_text)}
        return [
            output.event(f"{family.text}.done", **done),
            output.event(f"{family.part}.done", **self._at, part=self._part(text)),
            output.event(
                "response.output_item.done",
                output_index=self._at["output_index"],
                item=self._item,
            ),
        ]

    def cut(self, status: str) -> None:
        """It ends in the middle, and nothing tells of it but the response."""
        self._keep(status)

    def _keep(self, status: str) -> str:
        text = "".join(self._pieces)
        self._item["status"] = status
        self._item[self.family.place] = [self._part(text)]
        return text

    def _part(self, text: str) -> dict[str, object]:
        return {"type": self.family.part_type, "text": text, **dict(self.family.extra)}


class Call:
    """A call of a function, whose arguments grow."""

    def __init__(
        self, output: Output, index: int | None, own: str | None, name: str, out: list[bytes]
    ) -> None:
        """`index` and `own` are the upstream's: the call's number, None where it does not count,
        and its id. `out` takes the events that tell of its beginning."""
        self.index = index
        self.own = own
        self._output = output
        self._pieces: list[str] = []
        self._item: dict[str, Any] = {
            "type": "function_call",
            "status": IN_PROGRESS,
            "name": name,
            "arguments": "",
        }
        number = output.place(self._item, "fc")
        self._item["call_id"] = own or self._item["id"].replace("fc_", "call_", 1)
        self._at = {"output_index": number, "item_id": self._item["id"]}
        out.append(output.event("response.output_item.added", output_index=number, item=self._item))

    def name(self, name: str) -> None:
        """It came later than the call."""
        self._item["name"] = self._item["name"] or name

    def add(self, piece: str) -> bytes:
        """More of the arguments: the event of it."""
        self._pieces.append(piece)
        return self._output.event("response.function_call_arguments.delta", **self._at, delta=piece)

    def end(self, status: str = COMPLETED) -> list[bytes]:
        """The arguments are whole, or, with another `status`, end here."""
        output = self._output
        self.cut(status)
        return [
            output.event(
                "response.function_call_arguments.done",
                **self._at,
                name=self._item["name"],
                arguments=self._item["arguments"],
            ),
            output.event(
                "response.output_item.done",
                output_index=self._at["output_index"],
                item=self._item,
            ),
        ]

    def cut(self, status: str) -> None:
        """It ends in the middle, and nothing tells of it but the response."""
        self._item["status"] = status
        self._item["arguments"] = "".join(self._pieces)


def tell_search(output: Output, sources: list[str], out: list[bytes]) -> None:
    """A search that the upstream made while it answered: it is over when it is heard of."""
    action: dict[str, Any] = {"type": "search", "query": "", "sources": []}
    item = {"type": "web_search_call", "status": IN_PROGRESS, "action": action}
    at = {"output_index": output.place(item, "ws"), "item_id": item["id"]}
    out.append(
        output.event("response.output_item.added", output_index=at["output_index"], item=item)
    )
    for stage in (IN_PROGRESS, "searching", COMPLETED):
        out.append(output.event(f"response.web_search_call.{stage}", **at))
    item["status"] = COMPLETED
    action["sources"] = [{"type": "url", "url": url} for url in sources]
    out.append(
        output.event("response.output_item.done", output_index=at["output_index"], item=item)
    )
