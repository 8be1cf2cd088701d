"""A stream cut anywhere is never reported or delivered as whole, and a whole one never as cut.

Invariant: what the client gets is a prefix of whole events, byte for byte. After it comes either
the clean end of a stream whose end event was among them, or one error event of its dialect and
no clean end. Nobody ever sees half an event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from proxy.core.wire.sse import Decoder
from tests.fakes.raw_client import Answer, ask, chat
from tests.fakes.running import in_front_of, outcomes, running
from tests.fakes.upstream import H1_ENDINGS, H2_ENDINGS, Call, ScriptedUpstream

DATA = Path(__file__).parent / "data" / "glm"
OPENAI = ("07-usage-last-chunk", "06-tool-stream-incremental", "14b-utf8-escaped")
ANTHROPIC = ("20-anthropic-text",)
SAMPLE = 37
"""Of every so many byte offsets one is cut in the ordinary run, besides those around events."""


class Cut(NamedTuple):
    """One damaged stream."""

    name: str
    offset: int
    ending: str

    @property
    def data(self) -> bytes:
        return stream(self.name)[: self.offset]

    @property
    def is_whole(self) -> bool:
        return self.offset == len(stream(self.name))


def stream(name: str) -> bytes:
    return (DATA / f"{name}.sse").read_bytes()


def cuts(endings: tuple[str, ...], step: int) -> Iterator[Cut]:
    for name in (*OPENAI, *ANTHROPIC):
        data = stream(name)
        near_ends = {
            at + d for at in range(len(data)) if data[at : at + 2] == b"\n\n" for d in (0, 1, 2, 3)
        }
        for offset in range(len(data) + 1):
            if (
                offset % step == 0
                or (offset in near_ends and offset % 3 == 0)
                or offset >= len(data) - 3
            ):
                for ending in endings:
                    yield Cut(name, min(offset, len(data)), ending)


async def damaged(call: Call) -> None:
    name, offset, ending = orjson.loads(call.body)["cut"]
    data = stream(name)[:offset]
    framing = {"close": "close", "short": "100000"}.get(ending, "chunked")
    call.head(framing=framing)
    for at in range(0, len(data), 700):
        call.send(data[at : at + 700])
        await asyncio.sleep(0)
    call.finish(ending)


def check(cut: Cut, answer: Answer) -> str:
    """The outcome that the proxy must have recorded."""
    whole = [event.raw for event in Decoder().feed(cut.data)]
    if cut.is_whole:
        assert answer.clean, cut
        assert answer.chunks == whole, cut
        return "completed"
    assert answer.status == (200 if whole else 502) or cut.ending in ("rst", "drop"), (cut, answer)
    if answer.status != 200:
        assert answer.clean
        assert "code" in answer.json()["error"]
        return str(answer.json()["error"]["code"])
    assert not answer.clean, (cut, answer)
    *events, told = answer.chunks
    # A reset may overtake data that was still on its way to us; what came is whole all the same.
    assert events == whole[: len(events)], cut
    if cut.ending not in ("rst", "drop"):
        assert len(events) == len(whole), (cut, answer)
    assert b"[DONE]" not in b"".join(events)
    assert b'"message_stop"' not in b"".join(events)
    assert told.endswith(b"\n\n")
    if cut.name in ANTHROPIC:
        assert told.startswith(b'event: error\ndata: {"type":"error"'), told
    else:
        assert told.startswith(b'data: {"error":{'), told
    error = orjson.loads(told[told.index(b"{") :])["error"]
    return str(error["code"])


async def sweep(folder: Path, *, h2: bool, step: int) -> None:
    endings = H2_ENDINGS if h2 else H1_ENDINGS
    expected: Counter[str] = Counter()
    async with (
        ScriptedUpstream(damaged, h2=h2) as upstream,
        running(folder, in_front_of(upstream, folder)) as app,
    ):
        for cut in cuts(endings, step):
            path = "/v1/messages" if cut.name in ANTHROPIC else "/v1/chat/completions"
            answer = await ask(app.data_address, path, chat(cut=list(cut)))
            expected[check(cut, answer)] += 1
        assert await outcomes(app) == expected
    assert expected["completed"] == 4 * len(endings)


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_stream_cut_anywhere_is_told_as_cut_and_a_whole_one_as_whole(
    tmp_path: Path, h2: bool
) -> None:
    await sweep(tmp_path, h2=h2, step=SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_stream_cut_at_every_byte_is_told_as_cut_and_a_whole_one_as_whole(
    tmp_path: Path, h2: bool
) -> None:
    await sweep(tmp_path, h2=h2, step=1)
