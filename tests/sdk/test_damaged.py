"""What SDKs make of an upstream's damaged stream behind the proxy.

Without a proxy a cut stream is a success to some SDKs, and some legal streams crash them. Behind
it a cut or empty stream is an exception that says so, and a whole one is whole, in every SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.sdk.conftest import address
from tests.sdk.damage import ANTHROPIC, OPENAI, Damage, Spoken, cut, empty, harmless
from tests.sdk.readers import READERS, Heard, Reader

OVERTAKES = ("rst", "drop")
"""Endings that may overtake data which is still on its way to the proxy."""
Answers = dict[str, tuple[Damage, Heard]]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


def spoken(reader: Reader) -> Spoken:
    return OPENAI if reader.dialect == "openai" else ANTHROPIC


@asynccontextmanager
async def damaging(folder: Path, protocol: str, damages: dict[str, Damage]) -> AsyncIterator[str]:
    """A proxy whose upstream answers for the model "empty" with the damage of that name."""

    async def script(call: Call) -> None:
        damage = damages[orjson.loads(call.body)["model"]]
        call.head(framing=damage.framing, content_type=damage.kind)
        for at in range(0, len(damage.data), damage.step):
            call.send(damage.data[at : at + damage.step])
            await asyncio.sleep(0)
        call.finish(damage.ending)

    async with (
        ScriptedUpstream(script, h2=protocol == "h2") as upstream,
        running(folder, in_front_of(upstream, folder)) as app,
    ):
        yield address(app)


async def heard(folder: Path, protocol: str, reader: Reader, damages: Iterable[Damage]) -> Answers:
    """What `reader` makes of each."""
    named = {damage.name: damage for damage in damages}

    def hear_all(base: str) -> Answers:
        with reader.client(base) as sdk:
            return {name: (damage, reader.hear(sdk, name)) for name, damage in named.items()}

    async with damaging(folder, protocol, named) as base:
        return await asyncio.to_thread(hear_all, base)


def wrong(answers: Answers, is_right: Callable[[Damage, Heard], bool]) -> Answers:
    return {name: pair for name, pair in answers.items() if not is_right(*pair)}


async def test_an_odd_but_whole_stream_is_whole(
    tmp_path: Path, protocol: str, reader: Reader
) -> None:
    answers = await heard(tmp_path, protocol, reader, harmless(spoken(reader)))
    assert wrong(answers, lambda damage, heard: heard == Heard(damage.text, True, None)) == {}


def tells_of_the_cut(damage: Damage, heard: Heard) -> bool:
    if heard.error is None or damage.says not in heard.error:
        return False
    if damage.ending in OVERTAKES:
        return damage.text.startswith(heard.text)
    return heard.text == damage.text


async def test_a_cut_or_failed_stream_is_an_exception_that_says_so(
    tmp_path: Path, protocol: str, reader: Reader
) -> None:
    answers = await heard(tmp_path, protocol, reader, cut(spoken(reader), protocol))
    assert wrong(answers, tells_of_the_cut) == {}


def refuses(damage: Damage, heard: Heard) -> bool:
    return heard.error is not None and "502" in heard.error and damage.says in heard.error


async def test_an_answer_without_a_stream_is_an_error_with_a_status(
    tmp_path: Path, protocol: str, reader: Reader
) -> None:
    answers = await heard(tmp_path, protocol, reader, empty(spoken(reader)))
    assert wrong(answers, refuses) == {}
