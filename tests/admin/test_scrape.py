"""Scrapes share the loop with streams: they give way, they rest, and they show nothing old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from proxy.admin.scrape import Scrapes
from proxy.observe.exposition import Exposition


class SlowText:
    """Text in pieces that each keep the loop busy for longer than one turn."""

    def __init__(self, pieces: int = 5, seconds: float = 0.003) -> None:
        self.pieces = pieces
        self.seconds = seconds
        self.begun = 0
        self.made: list[float] = []
        self.began = asyncio.Event()
        self.state = "old"

    def __call__(self, accept: str) -> Exposition:
        return Exposition(f"type of {accept}", self._text())

    def _text(self) -> Iterator[bytes]:
        self.begun += 1
        for _ in range(self.pieces):
            time.sleep(self.seconds)
            self.made.append(time.monotonic())
            self.began.set()
            yield self.state.encode() + b"\n"


async def test_the_answer_is_all_pieces_and_their_type() -> None:
    answer = await Scrapes(SlowText(3, 0.0)).answer("text")
    assert (answer.content_type, answer.body) == ("type of text", b"old\n" * 3)


async def test_the_loop_has_its_turn_between_two_pieces() -> None:
    text = SlowText(pieces=10)
    turns: list[float] = []
    stop = asyncio.Event()

    async def other_work() -> None:
        while not stop.is_set():
            turns.append(time.monotonic())
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(other_work())
        await Scrapes(text).answer("")
        stop.set()
    between = zip(text.made, text.made[1:], strict=False)
    assert all(any(a < turn < b for turn in turns) for a, b in between)


async def test_all_who_ask_before_a_rendering_begins_share_it() -> None:
    text = SlowText()
    scrapes = Scrapes(text)
    answers = await asyncio.gather(*(scrapes.answer("") for _ in range(200)))
    assert text.begun == 1
    assert len({id(answer) for answer in answers}) == 1


async def test_who_asks_while_one_is_rendered_gets_a_later_one() -> None:
    text = SlowText(pieces=20)
    scrapes = Scrapes(text)
    first = asyncio.ensure_future(scrapes.answer(""))
    await text.began.wait()
    text.state = "new"
    assert (await scrapes.answer("")).body == b"new\n" * 20
    assert (await first).body.startswith(b"old\n")


async def test_another_format_is_rendered_for_itself() -> None:
    text = SlowText(1, 0.0)
    scrapes = Scrapes(text)
    plain, strict = await asyncio.gather(scrapes.answer("plain"), scrapes.answer("strict"))
    assert (plain.content_type, strict.content_type) == ("type of plain", "type of strict")


async def test_rendering_takes_no_more_than_a_fifth_of_the_time() -> None:
    text = SlowText(pieces=1, seconds=0.004)
    scrapes = Scrapes(text)
    started = time.monotonic()
    while time.monotonic() - started < 0.3:
        await scrapes.answer("")
    share = text.begun * text.seconds / (time.monotonic() - started)
    assert share < 0.25
    assert text.begun >= 2


async def test_a_scraper_that_leaves_holds_up_nobody() -> None:
    scrapes = Scrapes(SlowText(pieces=50))
    leaving = asyncio.ensure_future(scrapes.answer(""))
    await asyncio.sleep(0.01)
    leaving.cancel()
    answer = await asyncio.wait_for(scrapes.answer(""), 10)
    assert answer.body == b"old\n" * 50
    assert leaving.cancelled()
