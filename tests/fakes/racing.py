"""Upstreams that answer, fail, cut and hang as a seed says, and an account of what they saw.

Each call has a generation of its own, named in every event, so that two answers that were mixed
would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import h2.exceptions
import orjson

from tests.fakes.upstream import H1_ENDINGS, H2_ENDINGS, Call, H2Call, ScriptedUpstream

DONE = b"data: [DONE]\n\n"
HTML = b"<html><body>Welcome to the gateway</body></html>"
STATUSES = [
    (500, "1234"),
    (500, None),
    (502, None),
    (503, None),
    (529, None),
    (400, "1210"),
    (401, "1000"),
    (429, "1302"),
    (429, "1302"),
    (429, "1305"),
    (429, "1113"),
    (429, "1301"),
]
KINDS = {
    "answer": 46,
    "slow": 26,
    "opened": 7,
    "status": 6,
    "error_first": 2,
    "empty": 1,
    "html": 1,
    "cut_early": 1,
    "cut_late": 4,
    "drop": 1,
    "hang": 1,
    "hang_later": 1,
    "error_late": 2,
    "gave_up": 1,
}
"""What a call may do, and how often of a hundred."""


class Moment(asyncio.Event):
    """Knows when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: float | None = None

    def set(self) -> None:
        if self.at is None:
            self.at = time.monotonic()
        super().set()


@dataclass
class Plan:
    """What one call will do."""

    kind: str
    events: int
    before_head: float
    before_first: float
    between: float
    cut_after: int
    ending: str
    status: tuple[int, str | None]


def plan(roll: Random, *, h2: bool) -> Plan:
    kind = roll.choices(list(KINDS), list(KINDS.values()))[0]
    late = kind in ("slow", "opened")
    events = roll.randint(1, 6)
    # What closes the connection hits others too: it is rare.
    gentle = "reset" if h2 else "rst"
    endings = (H2_ENDINGS if h2 else H1_ENDINGS)[1:]
    return Plan(
        kind=kind,
        events=events,
        before_head=roll.choice([0.0, 0.0, 0.001, 0.004, roll.uniform(0, 0.03)]),
        before_first=roll.uniform(0.015, 0.09) if late else roll.choice([0.0, 0.0, 0.003]),
        between=roll.choice([0.0, 0.0, 0.001, 0.004]),
        cut_after=roll.randint(1, events),
        ending=roll.choice(endings) if roll.random() < 0.3 else gentle,
        status=roll.choice(STATUSES),
    )


@dataclass
class Seen:
    """One call as its upstream saw it."""

    number: int
    generation: str
    endpoint: str
    gone: Moment
    plan: Plan
    begun: float = field(default_factory=time.monotonic)
    finished: bool = False
    """It ended on its own account: with its whole answer, or with its own failure."""
    whole: bool = False


class Chaos:
    """What all upstreams saw of a run with `seed`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.seen: list[Seen] = []
        self.broke: list[Exception] = []
        self._calls: Counter[int] = Counter()

    def upstream(self, name: str, *, h2: bool) -> ScriptedUpstream:
        return _Chaotic(self, name, h2=h2)

    async def answer(self, name: str, call: Call, gone: Moment) -> None:
        number = int(call.headers["x-request-id"].partition("-")[2])
        self._calls[number] += 1
        generation = f"{number}.{self._calls[number]}"
        roll = Random(f"{self.seed}/{generation}")
        seen = Seen(number, generation, name, gone, plan(roll, h2=isinstance(call, H2Call)))
        self.seen.append(seen)
        try:
            await asyncio.wait_for(_play(call, seen), 30)
        except h2.exceptions.ProtocolError:
            pass  # the connection has gone, and its `gone` comes in the same turn
        except Exception as error:
            print("BROKE", seen, error)
            self.broke.append(error)
            raise


class _Chaotic(ScriptedUpstream):
    def __init__(self, chaos: Chaos, name: str, *, h2: bool) -> None:
        super().__init__(self._answer, h2=h2)
        self._chaos = chaos
        self._name = name

    def begin(self, call: Call) -> None:
        call.gone = Moment()
        super().begin(call)

    async def _answer(self, call: Call) -> None:
        assert isinstance(call.gone, Moment)
        await self._chaos.answer(self._name, call, call.gone)


def _event(seen: Seen, number: int) -> bytes:
    delta = {"content": f"{seen.generation}/{number} "}
    return _chunk({"id": seen.generation, "choices": [{"index": 0, "delta": delta}]})


def _chunk(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _finish(seen: Seen, reason: str) -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": seen.plan.events}
    return _chunk({"id": seen.generation, "choices": [choice], "usage": usage})


def _error(code: str | None) -> dict[str, object]:
    return {"error": {"code": code, "message": "it failed"}}


async def _wait(call: Call, seconds: float) -> bool:
    """Wait; whether anybody still listens."""
    if seconds:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call.gone.wait(), seconds)
    return not call.gone.is_set()


async def _play(call: Call, seen: Seen) -> None:
    if not await _wait(call, seen.plan.before_head):
        return
    match seen.plan.kind:
        case "status":
            status, code = seen.plan.status
            _whole_body(call, status, orjson.dumps(_error(code)), "application/json")
        case "html":
            _whole_body(call, 200, HTML, "text/html")
        case "drop":
            call.finish(seen.plan.ending)
        case "hang":
            await call.gone.wait()
            return
        case _:
            ends = seen.plan.kind in ("empty", "cut_early", "cut_late")
            call.head(framing="close" if ends and seen.plan.ending == "close" else "chunked")
            if not await _stream(call, seen):
                return
    seen.finished = True


def _whole_body(call: Call, status: int, body: bytes, kind: str) -> None:
    call.head(status, content_type=kind, framing=str(len(body)))
    call.send(body)
    call.finish()


async def _stream(call: Call, seen: Seen) -> bool:
    """What comes after the head; whether it came to its own end."""
    doing = seen.plan
    match doing.kind:
        case "empty":
            call.finish("close" if doing.ending == "close" else "clean")
            return True
        case "cut_early":
            await asyncio.sleep(0)
            if not call.gone.is_set():
                call.finish(doing.ending)
            return True
        case "error_first":
            call.send(_chunk(_error("1234")))
            call.finish()
            return True
        case "gave_up":
            call.send(_finish(seen, "network_error") + DONE)
            call.finish()
            return True
        case "opened":
            role = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            call.send(_chunk({"id": seen.generation, "choices": [role]}))
    if not await _wait(call, doing.before_first):
        return False
    return await _tokens(call, seen)


async def _tokens(call: Call, seen: Seen) -> bool:
    doing = seen.plan
    for number in range(doing.events):
        if number == doing.cut_after and doing.kind in ("cut_late", "error_late", "hang_later"):
            break
        call.send(_event(seen, number))
        if not await _wait(call, doing.between):
            return False
    match doing.kind:
        case "hang_later":
            await call.gone.wait()
            return False
        case "cut_late":
            call.finish(doing.ending)
        case "error_late":
            call.send(_chunk(_error("1234")))
            call.finish()
        case _:
            seen.whole = True
            call.send(_finish(seen, "stop") + DONE)
            call.finish()
    return True
