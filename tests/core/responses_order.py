"""The events of a Response checked against the documented order, and put together again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from proxy.core.wire.sse import Decoder

ENDS = ("response.completed", "response.incomplete", "response.failed")


def read(written: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events, each told with its name, numbered from 0."""
    decoder = Decoder()
    found = []
    for event in decoder.feed(b"".join(written)):
        if not event.data:
            continue
        value = orjson.loads(event.data)
        assert event.raw.startswith(b"event: ")
        assert value["type"] == event.name.decode()
        found.append(value)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def checked(written: Iterable[bytes]) -> dict[str, Any]:
    """The response at the end, its items as the events tell them. AssertionError for anything out
    of order, and where the last event says something else than those before."""
    opened, *events, end = read(written)
    assert opened["type"] == "response.created"
    assert events.pop(0)["type"] == "response.in_progress"
    assert end["type"] in ENDS
    items: list[Item] = []
    for event in events:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append(Item(event["item"]))
        else:
            assert "item_id" not in event or event["item_id"] == items[event["output_index"]].id
            items[event["output_index"]].take(event)
    response: dict[str, Any] = end["response"]
    assert response["status"] == end["type"].removeprefix("response.")
    if response["status"] != "failed":
        assert all(item.is_done for item in items)
    assert [item.told(said) for item, said in zip(items, response["output"], strict=True)] == (
        response["output"]
    )
    return response


class Item:
    """One item, by the events that tell of it."""

    def __init__(self, item: dict[str, Any]) -> None:
        assert item["status"] == "in_progress"
        self.id = item["id"]
        self.is_done = False
        self._item = item
        self._text: str | None = None
        self._done: list[str] = []
        if item["type"] == "function_call":
            assert item["arguments"] == ""
            self._text = ""

    def take(self, event: dict[str, Any]) -> None:
        assert not self.is_done
        kind = event["type"].rpartition(".")[2]
        match event["type"].removeprefix("response."):
            case "content_part.added" | "reasoning_summary_part.added":
                assert self._text is None
                assert event["part"]["text"] == self._part(event["part"]) == ""
                self._text = ""
            case (
                "output_text.delta"
                | "reasoning_text.delta"
                | "reasoning_summary_text.delta"
                | "function_call_arguments.delta"
            ):
                assert not self._done
                assert self._text is not None
                assert event["delta"]
                self._text += event["delta"]
            case "function_call_arguments.done":
                assert event["arguments"] == self._text
                self._done.append(kind)
            case "output_text.done" | "reasoning_text.done" | "reasoning_summary_text.done":
                assert not self._done
                assert event["text"] == self._text
                self._done.append(kind)
            case "content_part.done" | "reasoning_summary_part.done":
                assert self._done == ["done"]
                assert self._part(event["part"]) == self._text
                self._done.append("part")
            case "output_item.done":
                self._check_end(event["item"])
            case "web_search_call.in_progress" | "web_search_call.searching":
                assert self._item["type"] == "web_search_call"
            case "web_search_call.completed":
                self._done.append(kind)
            case other:
                raise AssertionError(other)

    def _check_end(self, item: dict[str, Any]) -> None:
        wanted = {"function_call": ["done"], "web_search_call": ["completed"]}
        assert self._done == wanted.get(item["type"], ["done", "part"])
        assert item["status"] in ("completed", "incomplete")
        assert item["id"] == self.id
        self._item, self.is_done = item, True

    def _part(self, part: dict[str, Any]) -> str:
        return str(part["text"])

    def told(self, last: dict[str, Any]) -> dict[str, Any]:
        """As `last`, the item in the last event, has to be."""
        if self.is_done:
            return self._item
        item = {**self._item, "status": "incomplete"}
        if item["type"] == "function_call":
            return {**item, "name": item["name"] or last["name"], "arguments": self._text}
        parts: dict[str, tuple[str, dict[str, object], str]] = {
            "message": ("content", {"annotations": [], "logprobs": []}, "output_text"),
            "reasoning": ("content", {}, "reasoning_text"),
        }
        place, extra, kind = parts[item["type"]]
        if "summary" in item and "content" not in item:
            place, kind = "summary", "summary_text"
        return {**item, place: [{"type": kind, "text": self._text, **extra}]}


def texts(response: dict[str, Any], kind: str) -> str:
    """All text of items of one kind."""
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == kind
        for part in item.get("content") or item.get("summary") or ()
    )
