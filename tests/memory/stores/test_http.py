"""A memory service over HTTP: what it is asked, and everything that it can answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Breaker as BreakerSettings
from proxy.config import MemoryStore
from proxy.core.policy.breaker import Breaker
from proxy.memory.store import Item, StoreFailed
from proxy.memory.stores.answers import deleted_of, items_of
from proxy.memory.stores.http import HttpStore
from proxy.memory.stores.open import open_memory
from tests.fakes.until import until
from tests.memory.stores.files import said
from tests.memory.stores.service import Say, answering, calling, raw, serving, silence

NOTHING = answering({"items": []})
HELLO = answering({"items": [{"text": "hello"}]})


async def test_it_is_asked_as_documented_and_its_memories_are_found() -> None:
    items = [
        {"text": "later", "role": "assistant", "at": 20, "score": 0.5, "more": [1]},
        {"text": "名字", "at": 10.5},
    ]
    say = answering({"items": items, "took": 3})
    async with serving(say) as service, calling(service, token="T0k3n") as store:
        found = await store.search("key:abc", "sitzung", "what?", 8)
        assert found == [Item("名字", "user", 10.5, 0.0), Item("later", "assistant", 20.0, 0.5)]
        service.say = answering(b"", 204)
        await store.add("key:abc", "sitzung", said("x", "y"), 60.0)
        service.say = answering({"deleted": 7})
        assert await store.forget("key:abc", "sitzung") == 7
        assert await store.forget("key:abc", None) == 7
    scope = hmac.new(b"T0k3n", b"key:abc", hashlib.sha256).hexdigest()
    whose = {"scope": scope, "session": "sitzung"}
    turns = [{"role": "user", "text": "x", "at": 1.0}, {"role": "user", "text": "y", "at": 2.0}]
    assert [(one.line, one.body) for one in service.asked] == [
        ("POST /v1/search HTTP/1.1", {**whose, "query": "what?", "limit": 8}),
        ("POST /v1/add HTTP/1.1", {**whose, "turns": turns, "retention_seconds": 60.0}),
        ("POST /v1/forget HTTP/1.1", whose),
        ("POST /v1/forget HTTP/1.1", {"scope": scope, "session": None}),
    ]
    for one in service.asked:
        assert one.headers["authorization"] == "Bearer T0k3n"
        assert one.headers["content-type"] == "application/json"
        assert one.headers["accept-encoding"] == "identity"
    assert service.connections == 1


async def test_without_a_token_the_scope_is_hashed_all_the_same() -> None:
    async with serving(NOTHING) as service, calling(service) as store:
        await store.search("key:abc", "s", "x", 8)
    assert service.asked[0].body["scope"] == hashlib.sha256(b"key:abc").hexdigest()
    assert "authorization" not in service.asked[0].headers


async def test_where_one_has_no_time_they_stay_in_the_order_of_the_service() -> None:
    items = [{"text": "a", "at": 3}, {"text": "b"}, {"text": "c", "at": 1}]
    async with serving(answering({"items": items})) as service, calling(service) as store:
        assert [one.text for one in await store.search("a", "s", "x", 2)] == ["a", "b"]


async def test_what_is_no_text_is_sent_as_text() -> None:
    async with serving(NOTHING) as service, calling(service) as store:
        await store.search("\ud800", "\udfff", "\ud800 名" * 20_000, 8)
        service.say = answering({})
        await store.add("a", "s", said("\ud800x" * 20_000), 1.0)
    assert service.asked[0].body["session"] == "?"
    assert len(service.asked[0].body["query"].encode()) <= 16384
    assert len(service.asked[1].body["turns"][0]["text"].encode()) <= 16384


# --- what it may answer ------------------------------------------------------------------------

_GARBAGE: list[tuple[Any, str]] = [
    (b"", "it is no JSON"),
    (b"{", "it is no JSON"),
    (b"\xff\xfe", "it is no JSON"),
    (b'{"items": [{"text": "x", "score": NaN}]}', "it is no JSON"),
    (b"[" * 100_000, "it is no JSON"),
    ([], "it is no object"),
    ({}, "items is no list"),
    ({"items": {"text": "x"}}, "items is no list"),
    ({"items": ["x"]}, "an item is no object"),
    ({"items": [{}]}, "an item has no text"),
    ({"items": [{"text": ""}]}, "an item has no text"),
    ({"items": [{"text": 5}]}, "an item has no text"),
    ({"items": [{"text": "x", "role": "system"}]}, "neither user nor assistant"),
    ({"items": [{"text": "x", "role": ["user"]}]}, "neither user nor assistant"),
    ({"items": [{"text": "x", "at": "now"}]}, "at is no number"),
    ({"items": [{"text": "x", "at": True}]}, "at is no number"),
    ({"items": [{"text": "x", "score": {}}]}, "score is no number"),
]


@pytest.mark.parametrize(("answer", "reason"), _GARBAGE)
async def test_garbage_is_no_memory(answer: Any, reason: str) -> None:
    async with serving(answering(answer)) as service, calling(service) as store:
        with pytest.raises(StoreFailed, match=reason):
            await store.search("a", "s", "x", 8)
        service.say = HELLO
        assert await store.search("a", "s", "x", 8)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["items", "text", "role", "at", "score", "deleted"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_an_answer_is_memories_or_a_failure(body: bytes) -> None:
    for read in (lambda: items_of(body, 3), lambda: deleted_of(body)):
        try:
            found = read()
        except StoreFailed:
            continue
        if isinstance(found, list):
            assert len(found) <= 3
            assert all(item.text and item.role in ("user", "assistant") for item in found)
        else:
            assert found >= 0


_REFUSED: list[tuple[Say, str]] = [
    (answering({}, 500), "it answered 500"),
    (answering({}, 401), "it answered 401; look at its token"),
    (answering({}, 404), "it answered 404"),
    (raw(b"nonsense\r\n\r\n", close=True), "none that is HTTP"),
    (raw(b"", close=True), "broke off its answer"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", close=True), "broke off its answer"),
    (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), "none that is HTTP"),
    (answering(b"\x1f\x8b" + b"x" * 50, 200, "Content-Encoding: gzip"), "its answer is encoded"),
    (answering(b"[" + b" " * (1 << 20) + b"]"), "its answer is over 1 MiB"),
    (raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 << 20)), "its answer is over 1 MiB"),
]


@pytest.mark.parametrize(("say", "reason"), _REFUSED)
async def test_any_other_answer_is_a_failure_with_a_reason(say: Say, reason: str) -> None:
    async with serving(say) as service, calling(service) as store:
        with pytest.raises(StoreFailed, match=reason):
            await store.search("a", "s", "x", 8)
        service.say = HELLO
        assert await store.search("a", "s", "x", 8)


async def test_it_is_not_followed_elsewhere() -> None:
    async with serving(HELLO) as elsewhere:
        say = answering({}, 307, f"Location: {elsewhere.url}/search")
        async with serving(say) as service, calling(service, token="T0k3n") as store:
            with pytest.raises(StoreFailed, match="answered 307; it is not followed elsewhere"):
                await store.search("a", "s", "x", 8)
    assert elsewhere.asked == []


async def test_neither_token_nor_text_is_in_what_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(answering({}, 500)) as service, calling(service, token="T0k3n") as store:
        for _ in range(2):
            with pytest.raises(StoreFailed) as failed:
                await store.add("scope-canary", "session-canary", said("text-canary"), 1.0)
            assert not any(word in str(failed.value) for word in ("T0k3n", "canary"))
        service.say = answering(b"", 204)
        await store.add("a", "s", said("x"), 1.0)
    assert [one.getMessage() for one in caplog.records] == [
        f"memory: {service.url}: it answered 500; requests go on without it",
        f"memory: {service.url} works again",
    ]


# --- slow, hanging, down -----------------------------------------------------------------------


async def test_a_slow_one_is_waited_for_and_a_hanging_one_is_not() -> None:
    async def slow(asked: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        await HELLO(asked, writer)

    async def trickle(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    async with serving(slow) as service:
        async with calling(service) as store:
            assert await store.search("a", "s", "x", 8)
        async with calling(service, timeout=0.2) as store:
            for say in (silence, trickle):
                service.say = say
                with pytest.raises(StoreFailed, match=r"no answer within 0\.2 s"):
                    await store.search("a", "s", "x", 8)


class Clock:
    """Goes on by itself, and at once when told."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def go(self, seconds: float) -> None:
        self._ahead += seconds


async def test_one_that_is_down_costs_nothing_and_is_asked_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    failures = BreakerSettings().failures
    async with serving(silence) as service, calling(service, timeout=0.05, clock=clock) as store:
        for _ in range(failures):
            with pytest.raises(StoreFailed, match="no answer within"):
                await store.search("a", "s", "x", 8)
        began = time.perf_counter()
        for _ in range(1000):
            with pytest.raises(StoreFailed, match="is left alone"):
                await store.search("a", "s", "x", 8)
        print(
            f"\na service that is left alone: {(time.perf_counter() - began) * 1e3:.1f} µs a call"
        )
        with pytest.raises(StoreFailed, match="no answer within"):
            await store.forget("a", "s")  # somebody waits for this
        assert len(service.asked) == failures + 1
        clock.go(7.0)
        both = [store.search("a", "s", "x", 8) for _ in range(10)]
        found = await asyncio.gather(*both, return_exceptions=True)
        assert sorted("left alone" in str(one) for one in found) == [False] + [True] * 9
        assert len(service.asked) == failures + 2  # one asked, and kept the others out
        service.say = HELLO
        clock.go(20.0)
        for _ in range(3):
            assert await store.search("a", "s", "x", 8)
    assert [one.getMessage().rpartition("; ")[2] for one in caplog.records] == [
        "requests go on without it",
        f"memory: {service.url} works again",
    ]


async def test_a_probe_that_nobody_waits_for_keeps_nobody_out() -> None:
    clock = Clock()
    async with serving(answering({}, 500)) as service, calling(service, clock=clock) as store:
        store._breaker = Breaker(BreakerSettings(failures=1))
        with pytest.raises(StoreFailed):
            await store.search("a", "s", "x", 8)
        clock.go(7.0)
        service.say = silence
        probe = asyncio.create_task(store.search("a", "s", "x", 8))
        await until(lambda: len(service.asked) == 2)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        service.say = HELLO
        assert await store.search("a", "s", "x", 8)


async def test_where_nobody_listens_it_says_so() -> None:
    async with serving(HELLO) as service:
        pass
    async with calling(service) as store:
        with pytest.raises(StoreFailed, match="it cannot be reached: Connect"):
            await store.search("a", "s", "x", 8)
    with pytest.raises(StoreFailed, match="it is closed"):
        await store.search("a", "s", "x", 8)


# --- TLS ---------------------------------------------------------------------------------------


async def test_its_certificate_is_checked_by_the_file_that_the_settings_name(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with serving(HELLO, context) as service:
        async with calling(service, ca_file=ca_file) as store:
            assert await store.search("a", "s", "x", 8)
        async with calling(service) as store:
            with pytest.raises(StoreFailed, match=r"cannot be reached|none that is HTTP"):
                await store.search("a", "s", "x", 8)


def test_the_settings_name_it() -> None:
    assert isinstance(open_memory(MemoryStore(url="https://memory.example.com")), HttpStore)
