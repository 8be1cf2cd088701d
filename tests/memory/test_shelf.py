"""A store in use: what is under way is bounded, and what was forgotten stays forgotten."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from proxy.config import MemoryStore as Settings
from proxy.core.policy.memory import Item, Told, Turn
from proxy.memory.shelf import MOST_LOOKUPS, MOST_WAITING, Exchanged, Shelf
from proxy.memory.store import StoreFailed
from proxy.memory.table import FRESH, Key, Table
from tests.fakes.until import until

KEY, OTHER = Key("scope", "s"), Key("scope", "other")
SETTINGS = Settings(url="http://127.0.0.1:1", timeout="60s")  # type: ignore[arg-type]


class Store:
    """Does what it is asked when `may` is set."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.opened = 0
        self.fails_to_open = 0
        self.fails = False
        self.running = self.most = 0
        self.kept: dict[Key, list[Turn]] = {}
        self.is_closed = False

    async def open(self) -> None:
        self.opened += 1
        if self.opened <= self.fails_to_open:
            raise StoreFailed("not today")

    async def close(self) -> None:
        self.is_closed = True

    async def _do(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.may.wait()
        finally:
            self.running -= 1
        if self.fails:
            raise StoreFailed("no")

    async def search(self, scope: str, session: str, query: str, most: int) -> list[Item]:
        found = self.kept.get(Key(scope, session), [])
        await self._do()
        return [Item(turn.text, turn.role, turn.at, 1.0) for turn in found]

    async def add(self, scope: str, session: str, turns: Sequence[Turn], retention: float) -> None:
        await self._do()
        self.kept.setdefault(Key(scope, session), []).extend(turns)

    async def forget(self, scope: str, session: str | None) -> int:
        gone = [key for key in self.kept if session in (None, key.session)]
        return sum(len(self.kept.pop(key)) for key in gone)


class Watcher:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def took(self, operation: str, seconds: float) -> None:
        self.counts[f"took {operation}"] += 1

    def failed(self, operation: str) -> None:
        self.counts[f"failed {operation}"] += 1

    def wrote(self, result: str) -> None:
        self.counts[result] += 1


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@asynccontextmanager
async def shelf(store: Store, clock: Clock | None = None) -> AsyncIterator[tuple[Shelf, Watcher]]:
    watcher = Watcher()
    one = Shelf(SETTINGS, store, watcher, clock=clock or Clock(), wall=time.time)
    try:
        yield one, watcher
    finally:
        await one.close(0.05)
        assert store.is_closed
        assert not [task for task in asyncio.all_tasks() if "Shelf" in str(task)]


def turn(text: str, key: Key = KEY) -> Exchanged:
    turns = (Turn("user", text, 1.0), Turn("assistant", f"{text}!", 2.0))
    return Exchanged(key, turns, 60.0, 8)


def texts(one: Shelf, key: Key = KEY) -> list[str]:
    entry = one.table.get(key, one.clock())
    return [] if entry is None else [item.text for item in entry.items]


async def test_a_store_that_hangs_is_asked_so_much_and_no_more() -> None:
    store = Store()
    store.may.clear()
    async with shelf(store) as (one, watcher):
        looked = [one.look(Key("scope", str(n)), "?", 8) for n in range(200)]
        await asyncio.sleep(0)
        await until(lambda: store.running == MOST_LOOKUPS)
        assert sum(lookup is not None for lookup in looked) == MOST_LOOKUPS
        assert watcher.counts["failed skip"] == 200 - MOST_LOOKUPS
        for n in range(MOST_WAITING + 50):
            one.keep(turn("a", Key("scope", str(n))))
        await until(lambda: watcher.counts["dropped"] >= 46)
        assert store.most <= MOST_LOOKUPS + 4
    assert watcher.counts["dropped"] == MOST_WAITING + 50  # at the end, all that was not written


async def test_a_turn_is_at_hand_before_it_is_written() -> None:
    store = Store()
    store.may.clear()
    async with shelf(store) as (one, watcher):
        one.keep(turn("a"))
        assert texts(one) == ["a", "a!"]
        store.may.set()
        await until(lambda: watcher.counts["took search"] == 1)
        assert texts(one) == ["a", "a!"]  # found
        assert watcher.counts["stored"] == 1


async def test_what_another_process_forgot_is_told_no_more_after_the_next_turn() -> None:
    store = Store()
    async with shelf(store) as (one, watcher):
        one.keep(turn("secret"))
        await until(lambda: watcher.counts["took search"] == 1)
        assert await store.forget("scope", "s") == 2  # elsewhere: nothing here is told of it
        one.keep(turn("b"))
        await until(lambda: watcher.counts["took search"] == 2)
        assert texts(one) == ["b", "b!"]


async def test_a_turn_that_could_not_be_written_stays_at_hand() -> None:
    store = Store()
    store.fails = True
    async with shelf(store) as (one, watcher):
        one.keep(turn("a"))
        await until(lambda: watcher.counts["failed"] == 1)
        store.fails = False
        one.keep(turn("b"))
        await until(lambda: watcher.counts["took search"] == 1)
        assert texts(one) == ["b", "b!", "a", "a!"]


async def test_what_fails_is_counted_and_nothing_else_happens() -> None:
    store = Store()
    store.fails = True
    async with shelf(store) as (one, watcher):
        lookup = one.look(KEY, "?", 8)
        assert lookup is not None
        await lookup.wait(10)
        assert lookup.items is None
        assert lookup.took is not None
        one.keep(turn("a"))
        await until(lambda: watcher.counts["failed"] == 1)
        assert watcher.counts["failed search"] == watcher.counts["failed add"] == 1


async def test_a_lookup_that_is_waited_for_in_vain_goes_on() -> None:
    store = Store()
    store.may.clear()
    store.kept[KEY] = [Turn("user", "a", 1.0)]
    async with shelf(store) as (one, _):
        lookup = one.look(KEY, "?", 8)
        assert lookup is not None
        await lookup.wait(0.01)
        assert lookup.took is None
        store.may.set()
        await lookup.wait(10)
        assert texts(one) == ["a"]
        assert one.usual == lookup.took


async def test_a_store_that_cannot_be_opened_is_tried_now_and_then() -> None:
    store, clock = Store(), Clock()
    store.fails_to_open = 1
    async with shelf(store, clock) as (one, watcher):
        for _ in range(5):
            lookup = one.look(KEY, "?", 8)
            assert lookup is not None
            await lookup.wait(10)
        assert store.opened == watcher.counts["failed open"] == 1
        assert watcher.counts["failed search"] == 5
        clock.ahead = 10
        lookup = one.look(KEY, "?", 8)
        assert lookup is not None
        await lookup.wait(10)
        assert lookup.items == []
        assert store.opened == 2


@pytest.mark.parametrize("session", ["s", None])
async def test_what_is_forgotten_does_not_come_back(session: str | None) -> None:
    store = Store()
    store.kept[KEY] = [Turn("user", "old", 1.0)]
    store.may.clear()
    async with shelf(store) as (one, watcher):
        one.look(KEY, "?", 8)  # it has found what will be forgotten
        for text in "abcdefgh":  # some are being written, the others wait
            one.keep(turn(text))
        one.keep(turn("kept", OTHER))
        await until(lambda: store.running == 3)
        forgotten = asyncio.ensure_future(one.forget("scope", session))
        await asyncio.sleep(0)
        store.may.set()
        assert await forgotten >= 1
        assert KEY not in store.kept
        assert texts(one) == []
        if session is not None:
            await until(lambda: OTHER in store.kept)
            assert texts(one, OTHER)[:2] == ["kept", "kept!"]
        assert watcher.counts["took forget"] == 1


async def test_a_search_from_before_does_not_bring_back_what_was_forgotten() -> None:
    store = Store()
    store.kept[KEY] = [Turn("user", "old", 1.0)]
    store.may.clear()
    async with shelf(store) as (one, _):
        lookup = one.look(KEY, "?", 8)
        assert lookup is not None
        await until(lambda: store.running == 1)
        assert await one.forget("scope", "s") == 1
        store.may.set()
        await lookup.wait(10)
        assert lookup.items is None
        assert texts(one) == []


async def test_the_turns_of_a_conversation_are_written_in_their_order() -> None:
    store = Store()
    store.may.clear()
    async with shelf(store) as (one, watcher):
        for text in "abcdef":
            one.keep(turn(text))
            one.keep(turn(text, OTHER))
        await until(lambda: store.running == 2)
        store.may.set()
        await until(lambda: watcher.counts["stored"] == 12)
        for key in (KEY, OTHER):
            said = [turn.text for turn in store.kept[key] if turn.role == "user"]
            assert said == list("abcdef")


async def test_after_the_end_nothing_is_begun() -> None:
    store = Store()
    async with shelf(store) as (one, watcher):
        pass
    assert one.look(KEY, "?", 8) is None
    one.keep(turn("a"))
    assert watcher.counts["dropped"] == 1
    with pytest.raises(StoreFailed):
        await one.forget("scope", None)


# --- what is at hand -----------------------------------------------------------------------------


def item(text: str) -> Item:
    return Item(text, "user", 1.0, 0.0)


def test_those_used_longest_ago_are_forgotten_first() -> None:
    table = Table(most=2)
    for name in "ab":
        table.found(Key("scope", name), [item(name)], 0.0)
    assert table.get(Key("scope", "a"), 0.0)
    table.found(Key("scope", "c"), [item("c")], 0.0)
    assert [bool(table.get(Key("scope", n), 0.0)) for n in "abc"] == [True, False, True]


def test_all_texts_at_hand_together_are_bounded() -> None:
    table = Table(most_characters=1000)
    for n in range(50):
        key = Key("scope", str(n))
        table.found(key, [item("x" * 90)], 0.0)
        table.heard(key, [item("y" * 9)], 0.0)
    assert len(table) == 10
    table.found(KEY, [item("x" * 2000)], 0.0)
    assert len(table) == 0


def test_what_is_at_hand_goes_stale() -> None:
    table = Table()
    table.found(KEY, [item("a")], 0.0)
    assert table.has_found(KEY, FRESH)
    assert not table.has_found(KEY, FRESH + 1)
    table.heard(KEY, [item("b")], FRESH + 1)
    entry = table.get(KEY, FRESH + 1)
    assert entry is not None
    assert [one.text for one in entry.items] == ["b"]


def test_what_was_told_is_told_until_the_turn_is_over() -> None:
    table, told = Table(), Told("x", 1, 1)
    table.pin(KEY, (0, 1), told, 0.0)
    assert table.pinned(KEY, (0, 1), 1.0) is told
    assert table.pinned(KEY, (2, 1), 1.0) is None
    assert table.heard(KEY, [item("a")], 2.0)
    assert table.pinned(KEY, (0, 1), 3.0) is None
    assert not table.heard(KEY, [item("a")], 4.0)
