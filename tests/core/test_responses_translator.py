"""A chat's events told as a Response's: every recorded shape, at every cut."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from proxy.core.flow.fold import Fold
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.wire.glm import GLM
from proxy.core.wire.responses.asked import read as ask
from proxy.core.wire.responses.translator import Translator
from tests.core.responses_order import checked, read, texts

DATA = Path(__file__).parents[1] / "data" / "glm"
CHATS = sorted(path for path in DATA.glob("*.sse") if path.name[:2] not in ("20", "21", "23"))
CHATS = [path for path in CHATS if path.name[:2] not in ("24", "25")]  # no chats
ID = "resp_" + "0" * 48
SETTINGS = SimpleNamespace(
    text_buffer_size=1, text_buffer_max_delay=0.0, split_text=0, max_event=1 << 20
)
DONE = b"data: [DONE]\n\n"


def translator(**fields: Any) -> Translator:
    asked = ask(orjson.dumps({"model": "glm-4.6", "input": "hi", **fields}))
    return Translator(asked, ID, 1_700_000_000.0, lambda: 1_700_000_009.5)


def piped(stream: bytes) -> tuple[list[bytes], bool]:
    """The events as a client gets them, and whether the end came."""
    pipe = Pipe(GLM, SETTINGS, Timeline(0.0))
    return pipe.feed(stream, 0.0), pipe.ended


def told(stream: bytes, **fields: Any) -> list[bytes]:
    """A stream as `ResponsesClient` tells it."""
    events, ended = piped(stream)
    one = translator(**fields)
    out = one.take(events)
    return out if ended else out + one.fail("upstream_cut", "the answer broke off")


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta} | ({"finish_reason": finish} if finish else {})
    return b"data: %b\n\n" % orjson.dumps({"id": "1", "choices": [choice], **more})


def call(index: int | None, own: str | None, name: str | None, arguments: str | None) -> Any:
    def said(**members: Any) -> dict[str, Any]:
        return {key: value for key, value in members.items() if value is not None}

    function = said(name=name, arguments=arguments)
    return {"tool_calls": [said(index=index, id=own, function=function)]}


def calls_of(response: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (item["call_id"], item["name"], item["arguments"])
        for item in response["output"]
        if item["type"] == "function_call"
    ]


# --- every recorded shape ------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.stem)
def test_the_deltas_are_the_chats_texts_and_the_order_is_the_documented_one(path: Path) -> None:
    events, ended = piped(path.read_bytes())
    fold = Fold("openai")
    fold.take(events)
    answer = orjson.loads(fold.answer())
    message = answer["choices"][0]["message"] if answer["choices"] else {}
    response = checked(told(path.read_bytes()))
    assert texts(response, "message") == (message.get("content") or "")
    assert texts(response, "reasoning") == (message.get("reasoning_content") or "")
    assert calls_of(response) == [
        (one["id"], one["function"]["name"], one["function"]["arguments"])
        for one in message.get("tool_calls") or ()
    ]
    if not ended or fold.error is not None:
        assert response["status"] == "failed"
    Response.model_validate(response)


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.stem)
def test_it_makes_no_difference_how_many_events_come_at_once(path: Path) -> None:
    events, _ = piped(path.read_bytes())
    whole = b"".join(translator().take(events))
    for cut in range(len(events) + 1):
        one = translator()
        assert b"".join(one.take(events[:cut]) + one.take(events[cut:])) == whole
    one = translator()
    assert b"".join(piece for event in events for piece in one.take([event])) == whole


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.stem)
def test_a_cut_behind_any_event_is_failed_and_keeps_what_came(path: Path) -> None:
    events, ended = piped(path.read_bytes())
    for cut in range(len(events) - (1 if ended else 0)):
        one = translator()
        out = one.take(events[:cut])
        came = "".join(
            event["delta"] for event in read(out) if event["type"].endswith("output_text.delta")
        )
        response = checked([*out, *one.fail("upstream_cut", "the answer broke off")])
        assert response["status"] == "failed"
        assert texts(response, "message") == came
        assert one.fail("again", "again") == []
        assert read(one.take(events[cut:])) == []


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("02-plain-text", "completed", None),
        ("12-length-stop", "incomplete", "max_output_tokens"),
        ("12b-length-all-reasoning", "incomplete", "max_output_tokens"),
        ("13-context-window-exceeded", "incomplete", "max_output_tokens"),
        ("08-sensitive-stop", "incomplete", "content_filter"),
        ("09-network-error-finish", "failed", "network_error"),
        ("09c-abort-finish", "failed", "abort"),
        ("10-midstream-error-object", "failed", "1234"),
        ("17-eof-without-finish", "failed", "upstream_cut"),
        ("17c-finish-without-done", "failed", "upstream_cut"),
        ("16-reasoning-only-stop", "completed", None),
    ],
)
def test_what_an_answer_ended_with(name: str, status: str, why: str | None) -> None:
    response = checked(told((DATA / f"{name}.sse").read_bytes()))
    assert response["status"] == status
    if status == "incomplete":
        assert response["incomplete_details"] == {"reason": why}
        assert response["output"][-1]["status"] == "incomplete"
    elif status == "failed":
        assert response["error"]["type"] == why
        assert response["error"]["message"]


def test_usage_is_told_with_its_details() -> None:
    response = checked(told((DATA / "07-usage-last-chunk.sse").read_bytes()))
    usage = response["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"] > 0
    assert usage["input_tokens_details"]["cached_tokens"] > 0
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0
    apart = checked(told((DATA / "07c-usage-empty-choices.sse").read_bytes()))
    assert apart["usage"]["output_tokens"] > 0


def test_a_search_is_an_item_with_its_sources() -> None:
    response = checked(told((DATA / "15-web-search.sse").read_bytes()))
    search, message = response["output"]
    assert search["type"] == "web_search_call"
    assert search["action"]["sources"] == [{"type": "url", "url": "https://example.org/ferry"}]
    assert message["content"][0]["text"]


def test_heartbeats_and_comments_pass() -> None:
    one = translator()
    assert one.take([b": heartbeat\n\n"]) == [b": heartbeat\n\n"]
    out = one.take([chunk({"content": "a"}), b": heartbeat\n\n", chunk({"content": "b"})])
    assert out.count(b": heartbeat\n\n") == 1
    assert texts(checked([*out, *one.take([DONE])]), "message") == "ab"
    assert one.take([b": bye\n\n"]) == [b": bye\n\n"]


def test_a_chat_without_anything_is_an_empty_response() -> None:
    response = checked(translator().take([DONE]))
    assert (response["status"], response["output"]) == ("completed", [])


def test_what_is_not_json_is_failed_since_a_part_would_be_missing() -> None:
    one = translator()
    out = one.take([chunk({"content": "a"}), b'data: {"choices": [\n\n', DONE])
    response = checked(out)
    assert response["error"]["type"] == "upstream_protocol_error"


# --- tool calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [call(0, "a", "f", '{"x":1}'), call(1, "b", "g", "{}")],
            [("a", "f", '{"x":1}'), ("b", "g", "{}")],
            id="whole",
        ),
        pytest.param(
            [call(-1, "a", "f", "{}"), call(-1, "b", "f", "[]")],
            [("a", "f", "{}"), ("b", "f", "[]")],
            id="index -1",
        ),
        pytest.param(
            [call(0, "a", "f", ""), call(0, None, None, '{"x"'), call(0, None, None, ":1}")],
            [("a", "f", '{"x":1}')],
            id="pieces",
        ),
        pytest.param(
            [call(0, "a", "f", ""), call(0, "a", "f", "{"), call(0, "a", "f", "}")],
            [("a", "f", "{}")],
            id="ids and names repeat",
        ),
        pytest.param(
            [call(0, "a", "f", ""), call(0, "b", None, "{"), call(0, "c", None, "}")],
            [("a", "f", "{}")],
            id="an id made up for each piece",
        ),
        pytest.param(
            [
                *(call(0, "a", "f", "{"), call(1, "b", "g", "[")),
                *(call(0, None, None, "}"), call(1, None, None, "]")),
            ],
            [("a", "f", "{}"), ("b", "g", "[]")],
            id="pieces of two in turns",
        ),
        pytest.param(
            [call(None, "a", "f", "{}"), call(None, "b", "f", "{}")],
            [("a", "f", "{}"), ("b", "f", "{}")],
            id="no index",
        ),
        pytest.param(
            [{"content": "\n"}, call(0, "a", "f", "{}"), {"content": "later"}],
            [("a", "f", "{}")],
            id="text around it",
        ),
    ],
)
@pytest.mark.parametrize("on_finish", [False, True])
def test_calls_in_every_shape(deltas: list[Any], expected: Any, on_finish: bool) -> None:
    """`on_finish`: the last piece rides on the finish."""
    chunks = [chunk(delta) for delta in deltas]
    if on_finish:
        chunks[-1] = chunk(deltas[-1], "tool_calls")
    else:
        chunks.append(chunk({"content": ""}, "tool_calls"))
    response = checked(translator().take([*chunks, DONE]))
    assert calls_of(response) == expected
    assert response["status"] == "completed"


def test_a_call_without_an_id_gets_one() -> None:
    response = checked(translator().take([chunk(call(0, None, "f", "{}")), DONE]))
    ((own, name, _),) = calls_of(response)
    assert own.startswith("call_")
    assert name == "f"


def test_thinking_is_told_as_a_summary_to_who_asks_for_one() -> None:
    stream = (DATA / "03-reasoning-then-content.sse").read_bytes()
    plain = checked(told(stream))
    asked = checked(told(stream, reasoning={"summary": "auto"}))
    assert texts(asked, "reasoning") == texts(plain, "reasoning") != ""
    assert "content" not in asked["output"][0]
    assert plain["output"][0]["summary"] == []


# --- whole answers -------------------------------------------------------------------------------


WHOLE = [path for path in CHATS if path.stem[:3] not in ("10-", "10b", "17-", "17c")]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_whole_chat_is_the_response_that_its_stream_is(path: Path) -> None:
    events, ended = piped(path.read_bytes())
    assert ended
    fold = Fold("openai")
    fold.take(events)
    streamed = checked(told(path.read_bytes()))
    whole = orjson.loads(translator().whole(fold.answer()))

    def said(response: dict[str, Any]) -> dict[str, Any]:
        """All but the items' order and numbers: a whole answer does not tell the order."""
        items = [{**item, "id": None} for item in response["output"]]
        return {**response, "output": sorted(items, key=orjson.dumps)}

    assert said(whole) == said(streamed)
    Response.model_validate(whole)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"ok":true}', b"<html>"])
def test_an_answer_that_is_none_is_failed(body: bytes) -> None:
    response = orjson.loads(translator().whole(body))
    assert response["status"] == "failed"
    Response.model_validate(response)


# --- anything ------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_DELTA = st.one_of(
    st.builds(lambda text: {"content": text}, _TEXT),
    st.builds(lambda text: {"reasoning_content": text}, _TEXT),
    st.builds(lambda a, b: {"reasoning_content": a, "content": b}, _TEXT, _TEXT),
    st.builds(
        call,
        st.one_of(st.none(), st.integers(-1, 2)),
        st.one_of(st.none(), st.sampled_from("abc")),
        st.one_of(st.none(), st.sampled_from("fg")),
        st.one_of(st.none(), _TEXT),
    ),
)


@given(st.lists(_DELTA, max_size=12), st.lists(st.integers(0, 12), max_size=4), st.booleans())
def test_any_deltas_are_told_in_order_and_whole(
    deltas: list[dict[str, Any]], cuts: list[int], is_whole: bool
) -> None:
    events = [chunk(delta) for delta in deltas] + ([DONE] if is_whole else [])
    one = translator()
    out: list[bytes] = []
    for start, end in _pieces(len(events), cuts):
        out += one.take(events[start:end])
    if not is_whole:
        out += one.fail("upstream_cut", "it broke off")
    response = checked(out)
    assert texts(response, "message") == "".join(d.get("content", "") for d in deltas)
    assert texts(response, "reasoning") == "".join(d.get("reasoning_content", "") for d in deltas)
    arguments = sorted("".join(one for _, _, one in calls_of(response)))
    assert arguments == sorted(
        "".join(
            d["tool_calls"][0]["function"].get("arguments", "") for d in deltas if "tool_calls" in d
        )
    )


def _pieces(count: int, cuts: Sequence[int]) -> Iterable[tuple[int, int]]:
    places = sorted({0, count, *(cut for cut in cuts if cut < count)})
    return itertools.pairwise(places)


NAMES = [
    *("choices", "delta", "content", "tool_calls", "function", "index", "id", "usage", "name"),
    *("arguments", "finish_reason", "web_search", "model", "message", "link", "error"),
]
_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), _TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(st.lists(_ANY, max_size=5))
def test_no_shape_of_an_event_breaks_it(values: list[Any]) -> None:
    one = translator()
    out = one.take([b"data: %b\n\n" % orjson.dumps(value) for value in values])
    checked([*out, *one.take([DONE])])
    for value in values:
        Response.model_validate(orjson.loads(translator().whole(orjson.dumps(value))))


@pytest.mark.parametrize("kind", ["content", "reasoning_content"])
def test_what_a_delta_costs(kind: str) -> None:
    """Printed; the guard is only against another order of magnitude."""
    events = [
        b'data: {"id":"20260415113322ddccbbaa99887766","created":1776223402,"object":'
        b'"chat.completion.chunk","model":"glm-4.6","choices":[{"index":0,"delta":'
        b'{"role":"assistant","%b":" word"}}]}\n\n' % kind.encode()
    ] * 2000
    one = translator()
    one.take(events[:1])
    began = time.perf_counter()
    for event in events:
        one.take([event])
    each = (time.perf_counter() - began) / len(events)
    print(f"{kind}: {each * 1e6:.2f} us per event")
    assert each < 1e-3
