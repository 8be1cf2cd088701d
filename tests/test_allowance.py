"""Limits of callers, over real sockets: what is let in, what is told, and what is given back."""

from __future__ import annotations

import asyncio
import random
import time
import types
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.allowance import Allowances
from proxy.app import App
from proxy.config import Allowance, Limits
from proxy.core.policy import access
from proxy.core.policy.access import Caller
from proxy.core.policy.limits import Taken, Want
from proxy.core.policy.spent import MOST, estimated, spent
from proxy.core.record import Usage
from proxy.errors import LimitReached
from proxy.simulator import Fault
from proxy.state.home import Entry
from proxy.state.memory import MemoryHome
from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.several import CHAT, MESSAGES, Several, several

ANSWER: Final[dict[str, Any]] = {
    "simulate": {"first_token": 0, "gap": 0, "tokens": 5, "thinking_tokens": 0}
}
SILENT: Final[dict[str, Any]] = {"simulate": {"no_headers": True}}
KEYS: Final[dict[str, Any]] = {"access": "keys"}


async def key_for(app: App, name: str, **limits: int) -> str:
    """The header of a virtual key with limits of its own."""
    made = access.make(
        name, random.randbytes(access.RANDOM_BYTES), time.time(), allowance=Allowance(**limits)
    )
    await app.home.save_key(made.key, Entry(time.time(), "test", "key.create", made.key.id))
    return f"Authorization: Bearer {made.token}"


def limits(**of: dict[str, int]) -> dict[str, Any]:
    return {"limits": of}


def caller(name: str) -> str:
    return f"Authorization: Bearer {name}.secret"


async def ask(proxy: Several, *headers: str, path: str = CHAT, **fields: Any) -> Answer:
    async with RawClient(proxy.app.data_address) as client:
        client.post(path, chat(**(ANSWER | fields)), *headers)
        async with asyncio.timeout(10):
            return await client.whole()


async def statuses(proxy: Several, times: int, *headers: str) -> list[int]:
    return [(await ask(proxy, *headers)).status for _ in range(times)]


def held(proxy: Several) -> dict[str, int]:
    """Places that are taken, by subject."""
    home = proxy.app.home
    assert isinstance(home, MemoryHome)
    return home.places()


async def none_is_held(proxy: Several) -> None:
    async with asyncio.timeout(10):
        while any(held(proxy).values()) or await proxy.figure("glm_proxy_exchanges_in_flight"):
            await asyncio.sleep(0.01)


# --- one less, as many, one more -----------------------------------------------------------------


async def test_as_many_requests_as_the_limit_are_let_in_and_not_one_more(tmp_path: Path) -> None:
    async with several(tmp_path, **KEYS, **limits(per_key={"requests_per_minute": 3})) as proxy:
        one, other = await key_for(proxy.app, "one"), await key_for(proxy.app, "other")
        assert await statuses(proxy, 5, one) == [200, 200, 200, 429, 429]
        assert await statuses(proxy, 3, other) == [200, 200, 200]
        assert len(proxy.entries) == 6
        counted = proxy.figure("glm_proxy_limited_total", limit="requests", scope="key")
        assert await counted == 2


async def test_all_callers_together_have_a_limit_too(tmp_path: Path) -> None:
    async with several(tmp_path, **limits(total={"requests_per_minute": 3})) as proxy:
        found = [(await ask(proxy, caller(str(number)))).status for number in range(5)]
        assert found == [200, 200, 200, 429, 429]
        counted = proxy.figure("glm_proxy_limited_total", limit="requests", scope="total")
        assert await counted == 2


async def test_a_keys_own_limits_are_over_those_of_all_keys_field_by_field(tmp_path: Path) -> None:
    general = limits(per_key={"requests_per_minute": 1, "concurrent": 1})
    async with several(tmp_path, **KEYS, **general) as proxy:
        own = await key_for(proxy.app, "own", requests_per_minute=4)
        assert await statuses(proxy, 5, own) == [200, 200, 200, 200, 429]
        other = await key_for(proxy.app, "other", requests_per_minute=9)
        async with RawClient(proxy.app.data_address) as holding:
            holding.post(CHAT, chat(**SILENT), other)
            await proxy.endpoints["a"].ledger.until(lambda ledger: len(ledger) == 5)
            refused = await ask(proxy, other)
        assert refused.status == 429
        assert "1 requests under way at once" in refused.json()["error"]["message"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_as_many_run_at_once_as_the_limit_and_not_one_more(
    tmp_path: Path, limit: int
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(
            several(tmp_path, **limits(per_key={"concurrent": limit}))
        )
        held = []
        for _ in range(limit):
            client = await stack.enter_async_context(RawClient(proxy.app.data_address))
            client.post(CHAT, chat(**SILENT), caller("one"))
            held.append(client)
        await proxy.endpoints["a"].ledger.until(lambda ledger: len(ledger) == limit)
        refused = await ask(proxy, caller("one"))
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert (await ask(proxy, caller("two"))).status == 200
        held[0].writer.close()
        async with asyncio.timeout(5):
            while (await ask(proxy, caller("one"))).status != 200:
                await asyncio.sleep(0.01)


async def test_tokens_of_an_answer_are_counted_as_the_upstream_does(tmp_path: Path) -> None:
    async with several(tmp_path, **limits(per_key={"tokens_per_minute": 10_000})) as proxy:
        first = await ask(proxy, caller("one"))
        usage = (await ask(proxy, caller("two"), stream=False)).json()["usage"]
        used = usage["prompt_tokens"] + usage["completion_tokens"]
        expected = 10_000 - int(first.headers["x-ratelimit-remaining-tokens"])
        again = await ask(proxy, caller("one"))
        left = int(again.headers["x-ratelimit-remaining-tokens"])
        assert left == 10_000 - used - expected


async def test_who_has_used_its_tokens_is_refused_until_they_fade(tmp_path: Path) -> None:
    async with several(tmp_path, **limits(per_key={"tokens_per_minute": 60})) as proxy:
        found = await statuses(proxy, 6, caller("one"))
        assert found[0] == 200
        assert found == sorted(found)
        assert found[-1] == 429
        refused = await ask(proxy, caller("one"))
        assert "60 tokens per minute of this caller" in refused.json()["error"]["message"]
        assert await statuses(proxy, 1, caller("two")) == [200]


async def test_a_days_tokens_last_until_midnight(tmp_path: Path) -> None:
    async with several(tmp_path, **limits(per_key={"tokens_per_day": 40})) as proxy:
        found = await statuses(proxy, 5, caller("one"))
        assert (found[0], found[-1]) == (200, 429)
        refused = await ask(proxy, caller("one"))
        assert "40 tokens per day (UTC)" in refused.json()["error"]["message"]
        until_midnight = 86_400 - time.time() % 86_400
        assert 0 <= int(refused.headers["retry-after"]) - until_midnight < 40
        assert "x-ratelimit-limit-tokens" not in refused.headers


# --- what is told --------------------------------------------------------------------------------


UPSTREAMS: Final[dict[str, Any]] = {"simulate": {**ANSWER["simulate"], "headers": [
    ["x-ratelimit-limit-requests", "777"],
    ["x-ratelimit-limit-tokens", "888"],
    ["anthropic-ratelimit-requests-limit", "777"],
]}}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
async def test_every_answer_tells_what_is_left(tmp_path: Path, stream: bool) -> None:
    async with several(tmp_path, **limits(per_key={"requests_per_minute": 2})) as proxy:
        fields: dict[str, Any] = {"stream": stream, **UPSTREAMS}
        answers = [await ask(proxy, caller("one"), **fields) for _ in range(3)]
        assert [one.status for one in answers] == [200, 200, 429]
        told = [one.headers["x-ratelimit-remaining-requests"] for one in answers]
        assert told == ["1", "0", "0"]
        for one in answers:
            assert one.headers["x-ratelimit-limit-requests"] == "2"
            assert one.headers["x-ratelimit-reset-requests"].startswith("1m")
        # Of what is not limited here, the upstream's word passes.
        assert answers[0].headers["x-ratelimit-limit-tokens"] == "888"


async def test_without_limits_the_upstreams_own_pass(tmp_path: Path) -> None:
    async with several(tmp_path) as proxy:
        answer = await ask(proxy, caller("one"), **UPSTREAMS)
        assert answer.headers["x-ratelimit-limit-requests"] == "777"


async def test_a_client_of_the_other_dialect_is_told_in_its_own(tmp_path: Path) -> None:
    each = {"requests_per_minute": 1, "tokens_per_minute": 1000}
    async with several(tmp_path, **limits(per_key=each)) as proxy:
        fields: dict[str, Any] = {"max_tokens": 50, **UPSTREAMS}
        good = await ask(proxy, caller("one"), path=MESSAGES, **fields)
        refused = await ask(proxy, caller("one"), path=MESSAGES, **fields)
        assert (good.status, refused.status) == (200, 429)
        assert good.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert good.headers["anthropic-ratelimit-requests-remaining"] == "0"
        reset = time.strptime(
            good.headers["anthropic-ratelimit-requests-reset"], "%Y-%m-%dT%H:%M:%SZ"
        )
        assert reset > time.gmtime()
        assert good.headers["anthropic-ratelimit-tokens-limit"] == "1000"
        told = refused.json()
        assert (told["type"], told["error"]["type"]) == ("error", "rate_limit_error")
        assert "1 requests per minute of this caller" in told["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1


async def test_what_is_passed_through_is_limited_too(tmp_path: Path) -> None:
    async with several(tmp_path, **limits(per_key={"requests_per_minute": 1})) as proxy:
        first = await ask(proxy, caller("one"), path="/v1/embeddings")
        second = await ask(proxy, caller("one"), path="/v1/embeddings")
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert (first.status != 429, second.status) == (True, 429)
        await none_is_held(proxy)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (None, True),
        ("application/json", True),
        ("text/plain", True),
        ("application/octet-stream", True),
        ("multipart/form-data; boundary=b", False),
    ],
)
async def test_what_is_passed_through_counts_whatever_it_is_called_but_for_forms(
    tmp_path: Path, kind: str | None, counts: bool
) -> None:
    lines = [] if kind is None else [f"Content-Type: {kind}"]
    async with several(tmp_path, **limits(per_key={"tokens_per_minute": 1000})) as proxy:
        path, text = "/v1/embeddings", "x" * 400
        await ask(proxy, caller("one"), *lines, path=path, model="embedding-3", input=text)
        await none_is_held(proxy)
        later = await ask(proxy, caller("one"))
        left = int(later.headers["x-ratelimit-remaining-tokens"])
        assert (left < 900) is counts


# --- what is given back --------------------------------------------------------------------------


ENDINGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"cut_at_event": 0},
    {"cut_at_event": 3},
    {"cut_at_event": 3, "ending": "reset"},
    {"code": "1210"},
    {"code": "1305"},
    {"code": "1234", "error_at_event": 2},
    {"empty": True},
    {"html": True},
    {"no_headers": True},
    {"stall_at_event": 0},
    {"stall_at_event": 3},
)
EACH: Final[dict[str, Any]] = {
    **limits(
        per_key={"concurrent": 100, "tokens_per_minute": 10**9},
        total={"concurrent": 1000, "requests_per_minute": 10**9},
    ),
    "timeouts": {"headers": "150ms", "first_token": "150ms", "idle": "150ms", "total": "1s"},
    "attempts": {"breaker": "off"},
}


async def chaos(proxy: Several, times: int, seed: int) -> Counter[str]:
    """Requests that end in every way, many at once; some clients leave at some moment."""
    roll = random.Random(seed)

    async def one() -> str:
        ending, leaves = roll.choice(ENDINGS), roll.random() < 0.4
        path, stream = roll.choice((CHAT, CHAT, MESSAGES)), roll.random() < 0.7
        patience = roll.choice((0.0, roll.uniform(0, 0.05), roll.uniform(0, 0.3)))
        simulate = {"first_token": 0.02, "gap": 0.01, "tokens": 6, "thinking_tokens": 0, **ending}
        body = chat(simulate=simulate, stream=stream, max_tokens=100)
        async with RawClient(proxy.app.data_address) as client:
            client.post(path, body, caller(f"c{roll.randrange(5)}"))
            answer = asyncio.ensure_future(client.whole())
            await asyncio.wait([answer], timeout=patience if leaves else 10)
            left = not answer.done()
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        return "left" if left else "stayed"

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(times)]
    return Counter(task.result() for task in tasks)


TAKE: Final = MemoryHome.take


async def _slowly(home: MemoryHome, wants: Sequence[Want], lease: str) -> Taken:
    """As a home that is somewhere else: there is a moment before it is counted, and one after."""
    await asyncio.sleep(0.002)
    taken = await TAKE(home, wants, lease)
    await asyncio.sleep(0.002)
    return taken


@pytest.mark.parametrize("route", [{}, {"commit": "early", "share": True}], ids=["late", "shared"])
async def test_after_any_ending_every_place_is_free(
    tmp_path: Path, route: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryHome, "take", _slowly)
    routes: dict[str, Any] = {"routes": [{"name": "all", **route}]} if route else {}
    async with several(tmp_path, "ab", **EACH, **routes) as proxy:
        endings = await chaos(proxy, 120, seed=len(route))
        assert min(endings["left"], endings["stayed"]) > 10
        await none_is_held(proxy)
        assert len(held(proxy)) == 6  # total, and five callers


@pytest.mark.parametrize("awaits", range(3))
def test_who_leaves_while_it_is_counted_holds_nothing(
    awaits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(home: MemoryHome, wants: Sequence[Want], lease: str) -> Taken:
        await pause()
        taken = await TAKE(home, wants, lease)
        await pause()
        await pause()
        return taken

    @types.coroutine
    def pause() -> Generator[None, None, None]:
        yield

    monkeypatch.setattr(MemoryHome, "take", slowly)
    home = MemoryHome()
    each = Allowance(concurrent=1, tokens_per_minute=10)
    allowances = Allowances(Limits(per_key=each), home, roll=lambda: 0.0)
    wants = allowances.wants(Caller("one"), 40)
    taking = allowances.take(wants)
    for _ in range(awaits + 1):
        taking.send(None)
    with pytest.raises(asyncio.CancelledError):
        taking.throw(asyncio.CancelledError)
    assert set(home.places().values()) == {0}
    again = allowances.take(wants)  # all the tokens are there again
    for _ in range(3):
        again.send(None)
    with pytest.raises(StopIteration) as done:
        again.send(None)
    assert done.value.value.taken.refused is None


def test_where_nothing_is_limited_nobody_is_asked() -> None:
    allowances = Allowances(Limits(), MemoryHome(), roll=lambda: 0.0)
    assert allowances.wants(Caller("one"), 1000) == ()


@pytest.mark.parametrize(("roll", "seconds"), [(0.0, 90), (1.0, 108)])
async def test_those_who_are_refused_together_do_not_come_back_together(
    roll: float, seconds: int
) -> None:
    home = MemoryHome(clock=lambda: 0.0)
    limits = Limits(per_key=Allowance(requests_per_minute=1))
    allowances = Allowances(limits, home, roll=lambda: roll)
    await allowances.take(allowances.wants(Caller("one"), 0))
    share = await allowances.take(allowances.wants(Caller("one"), 0))
    with pytest.raises(LimitReached, match="1 requests per minute of this caller") as refused:
        allowances.insist(share)
    assert refused.value.retry_after == seconds


# --- what an exchange took -----------------------------------------------------------------------


TOLD: Final = Usage(input_tokens=12, output_tokens=30)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (TOLD, 42),
        (replace(TOLD, partial=True), 12 + 50),
        (Usage(input_tokens=12), 12 + 50),
        (Usage(output_tokens=30), 100 + 30),
        (None, 100 + 50),
    ],
)
def test_what_the_upstream_does_not_say_is_estimated(usage: Usage | None, tokens: int) -> None:
    assert spent(usage, prompt=100, came=50) == tokens


@pytest.mark.parametrize("tokens", [MOST + 1, 10**12, 2**53])
def test_an_absurd_count_of_the_upstream_does_not_use_up_a_limit_for_years(tokens: int) -> None:
    assert spent(Usage(input_tokens=tokens), prompt=100, came=50) == 100 + 50
    assert spent(Usage(output_tokens=tokens), prompt=100, came=50) == 100 + 50
    assert spent(Usage(input_tokens=MOST), prompt=100, came=50) == MOST + 50


async def used_by(proxy: Several, *headers: str, body: bytes) -> int:
    """Tokens that one more request of a caller without any before it took."""
    async with RawClient(proxy.app.data_address) as client:
        client.post(CHAT, body, *headers)
        async with asyncio.timeout(10):
            await client.whole()
    await none_is_held(proxy)
    after = await ask(proxy, *headers)
    left = int(after.headers["x-ratelimit-remaining-tokens"])
    return 10_000 - left - estimated(len(chat(**ANSWER)))


PROMPT: Final = chat(**ANSWER)


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [
        ({"cut_at_event": 3}, 3, 3),  # three events came
        ({"cut_at_event": 0}, 0, 0),  # only what was asked
        ({"code": "1210"}, None, None),  # refused: nothing was done
        ({"code": "1234", "status": 500}, None, None),
    ],
)
async def test_what_broke_off_is_estimated_and_what_was_refused_is_free(
    tmp_path: Path, fault: dict[str, Any], least: int | None, most: int | None
) -> None:
    settings = limits(per_key={"tokens_per_minute": 10_000})
    async with several(tmp_path, **settings, attempts={"retries": 0}) as proxy:
        simulate = {**ANSWER["simulate"], **fault}
        body = chat(simulate=simulate)
        used = await used_by(proxy, caller("one"), body=body)
        if least is None or most is None:
            assert used == 0
        else:
            assert least <= used - estimated(len(body)) <= most


async def test_what_both_attempts_of_a_hedge_took_is_counted(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **limits(per_key={"tokens_per_minute": 10_000}),
        "hedge": {"min": "50ms", "max": "50ms", "budget": "100%"},
        "routes": [{"name": "two", "candidates": [{"endpoint": "a"}, {"endpoint": "b"}]}],
    }
    async with several(tmp_path, "ab", **settings) as proxy:
        proxy.inject(Fault(stall_at_event=0), on="a")
        body = chat()  # one that says how it is answered is not told otherwise
        used = await used_by(proxy, caller("one"), body=body)
        assert proxy.asked[:2] == ["a", "b"]
        alone = await used_by(proxy, caller("two"), body=body)
        # The one that lost said nothing yet: it counts with what it was asked.
        assert used - alone == estimated(len(body))


async def test_of_those_who_share_an_answer_each_is_counted_and_one_pays(tmp_path: Path) -> None:
    each = {"requests_per_minute": 100, "tokens_per_minute": 10_000}
    settings = {**limits(per_key=each), "routes": [{"name": "all", "share": True}]}
    async with several(tmp_path, **settings) as proxy:
        slow = chat(simulate={**ANSWER["simulate"], "first_token": 0.2})
        alone = await used_by(proxy, caller("one"), body=slow)
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(4):
                client = await stack.enter_async_context(RawClient(proxy.app.data_address))
                client.post(CHAT, slow, caller("two"))
                clients.append(client)
            assert {(await client.whole()).status for client in clients} == {200}
        await none_is_held(proxy)
        assert len(proxy.entries) == 3
        after = await ask(proxy, caller("two"))
        assert int(after.headers["x-ratelimit-remaining-requests"]) == 95
        left = int(after.headers["x-ratelimit-remaining-tokens"])
        assert 10_000 - left - estimated(len(PROMPT)) == alone
