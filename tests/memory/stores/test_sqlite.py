"""Memories in a file: found by their own caller, for their time, within the size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import MemoryStore
from proxy.memory.store import StoreFailed, Turn
from proxy.memory.stores import file
from proxy.memory.stores.file import MemoryFile
from proxy.memory.stores.open import open_memory
from proxy.memory.stores.reader import MemoryReader
from proxy.memory.stores.sqlite import SqliteStore
from proxy.state.sqlite.database import Schema
from tests.fakes.until import until
from tests.memory.stores.files import LONG, everything, opened, rows, said, texts, writing
from tests.memory.stores.test_terms import HOSTILE

# --- what is found -----------------------------------------------------------------------------


async def test_what_was_said_is_found_in_its_order_and_by_its_session_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", [Turn("user", "My dog is Rex", 2.5)], LONG)
        await store.add("a", "s", [Turn("assistant", "我记住了小明", 3.5)], LONG)
        await store.add("a", "other", said("My dog is Ino"), LONG)
        await store.add("b", "s", said("My dog is Waldi"), LONG)
        found = await store.search("a", "s", "dog 小明", 8)
        assert [item[:3] for item in found] == [
            ("My dog is Rex", "user", 2.5),
            ("我记住了小明", "assistant", 3.5),
        ]
        assert all(item.score > 0 for item in found)
        assert await texts(store, "c", "s", "dog") == []
        assert await texts(store, "a", "s2", "dog") == []
        assert await texts(store, "a:s", "", "dog") == []


async def test_a_quarter_is_the_latest_and_the_rest_fits_best(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said(*(f"zebra number {n}" for n in range(10))), LONG)
        await store.add("a", "s", said(*(f"nothing {n}" for n in range(10)), at=100), LONG)
        found = await texts(store, "a", "s", "zebra", 8)
        assert found[-2:] == ["nothing 8", "nothing 9"]
        assert found[:6] == [f"zebra number {n}" for n in range(4, 10)]
        assert await texts(store, "a", "s", "zebra", 1) == ["zebra number 9"]
        # Without a word to look for, and where nothing fits.
        for query in ("", "?!", "giraffe"):
            assert await texts(store, "a", "s", query, 3) == [f"nothing {n}" for n in (7, 8, 9)]


async def test_a_short_word_of_one_or_two_signs_is_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said("我的名字是小明", "狗", "I like Go", "C is old"), LONG)
        await store.add("a", "s", said(*(f"talk {n}" for n in range(20)), at=50), LONG)
        for query, fact in (
            ("名字", "我的名字是小明"),
            ("狗", "狗"),
            ("Go", "I like Go"),
            ("C", "C is old"),
        ):
            assert await texts(store, "a", "s", query, 1) == [fact]


@pytest.mark.parametrize("text", [*HOSTILE, "a b" * 100_000, "名" * 100_000])
async def test_what_is_put_in_or_looked_for_is_data(tmp_path: Path, text: str) -> None:
    async with opened(tmp_path) as store:
        await store.add(text, text, said(text, "kept"), LONG)
        assert "kept" in await texts(store, text, text, text)
        assert await store.forget(text + "x", text) == 0
        assert await store.forget(text, text) == 2


_ANYTHING = st.text(st.characters(), max_size=60) | st.sampled_from(HOSTILE)


def test_no_query_does_anything_but_find(tmp_path: Path) -> None:
    with contextlib.closing(MemoryFile(tmp_path / "memory.db", 1.0, 1 << 30)) as writer:
        writer.add("a", "s", said("one of them", "另一个"), LONG)
        with contextlib.closing(MemoryReader(tmp_path / "memory.db", 1.0)) as reader:

            @settings(deadline=None)
            @given(_ANYTHING, _ANYTHING, _ANYTHING, st.integers(1, 20))
            def search(scope: str, session: str, query: str, most: int) -> None:
                found = reader.search("a", "s", query, most)
                assert len(found) == min(most, 2)
                assert reader.search(f"x{scope}", session, query, most) == []
                assert reader.search("a", f"x{session}", query, most) == []

            search()


async def test_of_a_long_turn_the_beginning_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said("名" * 10_000, "x" * 100_000), LONG)
        assert [len(text.encode()) for text in await texts(store, "a", "s")] == [16383, 16384]


# --- the file ----------------------------------------------------------------------------------


async def test_only_its_user_may_read_it_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path / "new" / "folder") as store:
            await store.add("a", "s", said("x"), LONG)
            files = sorted((tmp_path / "new" / "folder").iterdir())
            assert [one.name for one in files] == ["memory.db", "memory.db-shm", "memory.db-wal"]
            assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
            assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


async def test_who_has_a_copy_does_not_learn_whose_it_is(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        async with opened(tmp_path / folder) as store:
            await store.add("key:k3v9x0q1w2e3", "session-of-marlene", said("hello"), LONG)
            held = everything(tmp_path / folder)
    assert b"hello" in held
    assert b"k3v9x0q1w2e3" not in held
    assert b"session-of-marlene" not in held
    names = [
        rows(tmp_path / folder, "SELECT scope, name FROM sessions") for folder in ("one", "two")
    ]
    assert names[0] != names[1]  # each file has a salt of its own


async def test_the_next_version_reads_this_one_and_this_one_refuses_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said("kept"), LONG)
    step = "ALTER TABLE items ADD COLUMN later TEXT; PRAGMA user_version = 2"
    with monkeypatch.context() as patched:
        newer = Schema(file.SCHEMA.application, (*file.SCHEMA.steps, step))
        patched.setattr(file, "SCHEMA", newer)
        async with opened(tmp_path) as store:
            assert await texts(store, "a", "s") == ["kept"]
    with pytest.raises(StoreFailed, match=r"by a newer glm-proxy \(form 2; this one knows 1\)"):
        async with opened(tmp_path):
            pass


async def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE cookies (secret TEXT)")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(StoreFailed, match="belongs to another program"):
        async with opened(tmp_path):
            pass
    assert path.read_bytes() == before


# --- for how long, and how much ----------------------------------------------------------------


async def test_what_is_over_is_not_found_and_soon_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said("kept"), LONG)
        await store.add("a", "s", said("brief"), 0.05)
        await until(lambda: b"brief" not in everything(tmp_path))
        assert await texts(store, "a", "s", "brief") == ["kept"]
        assert rows(tmp_path, "SELECT count(*) FROM items") == [(1,)]


def test_it_stays_within_its_size_and_the_oldest_sessions_go_first(tmp_path: Path) -> None:
    size = 1 << 18
    chance = random.Random(1)
    with contextlib.closing(MemoryFile(tmp_path / "memory.db", 1.0, size)) as writer:
        largest = 0
        for number in range(300):
            words = " ".join(f"{chance.getrandbits(20):x}" for _ in range(200))
            writer.add("a", f"s{number // 10}", said(words), LONG)
            largest = max(largest, writer._used())
        writer.look()
        assert largest < size * 1.1
        assert (tmp_path / "memory.db").stat().st_size < size * 1.2
        ((first, last, count),) = rows(tmp_path, "SELECT min(id), max(id), count(*) FROM items")
        assert (first, last) == (301 - int(str(count)), 300)
        assert int(str(count)) > 20
    # With less room from the next start on it gives back what it had.
    with contextlib.closing(MemoryFile(tmp_path / "memory.db", 1.0, size // 2)) as writer:
        for _ in range(20):
            writer.look()
        assert (tmp_path / "memory.db").stat().st_size < size // 2 * 1.1
        assert rows(tmp_path, "SELECT max(id) FROM items") == [(300,)]


def test_one_session_alone_stays_within_the_size_too(tmp_path: Path) -> None:
    chance = random.Random(1)
    with contextlib.closing(MemoryFile(tmp_path / "memory.db", 1.0, 1 << 18)) as writer:
        for number in range(200):
            words = " ".join(f"{chance.getrandbits(20):x}" for _ in range(100))
            writer.add("a", "s", said(f"{number} {words}"), LONG)
            assert writer._used() < (1 << 18) * 1.1
    assert rows(tmp_path, "SELECT max(id) FROM items") == [(200,)]


# --- forgetting --------------------------------------------------------------------------------


async def test_a_session_is_forgotten_and_then_all_of_a_caller(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for scope in ("a", "b"):
            for session in ("one", "two"):
                await store.add(scope, session, said("x", "y", "z"), LONG)
        assert await store.forget("a", "one") == 3
        assert await store.forget("a", "one") == 0
        assert await texts(store, "a", "one") == []
        assert await texts(store, "a", "two") == ["x", "y", "z"]
        await store.add("a", "one", said("again"), LONG)
        assert await texts(store, "a", "one", "x") == ["again"]
        assert await store.forget("a", None) == 4
        assert await texts(store, "a", "one") == await texts(store, "a", "two") == []
        assert await texts(store, "b", "one") == ["x", "y", "z"]


async def test_nothing_of_what_was_forgotten_stays_in_the_files(tmp_path: Path) -> None:
    """Neither the text, nor the words of the index: also of a large one, and beside others."""
    async with opened(tmp_path) as store:
        for number in range(60):
            await store.add("a", f"s{number % 3}", said("qxv secret 秘密" + "qxv " * 200), LONG)
            await store.add("b", "s", said(f"other words {number}"), LONG)
        assert b"qxv" in everything(tmp_path)
        assert await store.forget("a", None) == 60
        await until(lambda: not {b"qxv", "秘密".encode()} & _of(everything(tmp_path)))
        assert len(await texts(store, "b", "s", "other", 100)) == 60
        assert rows(tmp_path, "SELECT count(*) FROM sessions") == [(1,)]


def _of(held: bytes) -> set[bytes]:
    return {one for one in (b"qxv", "秘密".encode()) if one in held}


# --- several at once ---------------------------------------------------------------------------


async def test_several_that_have_it_open_see_the_same(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stores = await asyncio.gather(
            *(stack.enter_async_context(opened(tmp_path)) for _ in range(4))
        )
        await asyncio.gather(
            *(
                store.add("a", "s", said(f"from {place}, {number}"), LONG)
                for place, store in enumerate(stores)
                for number in range(10)
            )
        )
        for store in stores:
            assert len(await texts(store, "a", "s", "from", 100)) == 40
        assert await stores[0].forget("a", "s") == 40
        assert await texts(stores[3], "a", "s") == []


async def test_a_search_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout=0.2) as store:
        await store.add("a", "s", said("kept"), LONG)
        with writing(tmp_path / "memory.db"):
            adding = asyncio.create_task(store.add("a", "s", said("more"), LONG))
            assert await texts(store, "a", "s") == ["kept"]
            with pytest.raises(StoreFailed, match="has been writing to it for too long"):
                await adding
        await store.add("a", "s", said("later"), LONG)


async def test_a_call_that_is_given_up_does_no_harm(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for _ in range(20):
            calls = [
                asyncio.create_task(store.add("a", "s", said("x"), LONG)),
                asyncio.create_task(store.search("a", "s", "x", 8)),
            ]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
        await store.add("a", "s", said("last"), LONG)
        assert (await texts(store, "a", "s"))[-1] == "last"


async def test_what_is_closed_fails_and_may_be_closed_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.close()
        with pytest.raises(StoreFailed, match="is closed"):
            await store.search("a", "s", "x", 8)
    assert isinstance(open_memory(MemoryStore(url=f"sqlite:{tmp_path}/m.db")), SqliteStore)


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "zeros"])
async def test_a_damaged_file_is_moved_aside_and_a_new_one_begins(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        await store.add("a", "s", said("lost"), LONG)
    path = tmp_path / "memory.db"
    _spoil(path, damage)
    spoilt = path.read_bytes()
    async with contextlib.AsyncExitStack() as stack:
        stores = await asyncio.gather(
            *(stack.enter_async_context(opened(tmp_path)) for _ in range(3))
        )
        await stores[0].add("a", "s", said("new"), LONG)
        assert await texts(stores[2], "a", "s") == ["new"]
    (aside,) = _moved(tmp_path)
    if damage == "text":  # of the other one SQLite has changed the head
        assert aside.read_bytes() == spoilt
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert caplog.text.count("is damaged; it is kept as") == 1


async def test_one_that_is_damaged_while_it_is_used_is_replaced_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        for number in range(200):
            await store.add("a", "s", said(f"lost {number} " + "x" * 500), LONG)
        with contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        _spoil(tmp_path / "memory.db", "zeros")
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as db,
            contextlib.suppress(sqlite3.Error),
        ):
            db.execute("UPDATE about SET salt = salt")  # so that nobody trusts what it has read
            db.commit()
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(StoreFailed):
                    await store.add("a", "s", said("new"), LONG)
                    if await texts(store, "a", "s") == ["new"]:
                        break
                await asyncio.sleep(0.02)
    assert len(_moved(tmp_path)) == 1
    assert caplog.text.count("requests go on without it") == 1
    assert caplog.text.count("works again") == 1


def _moved(folder: Path) -> list[Path]:
    """What was moved aside, without what belongs to it."""
    found = folder.glob("memory.db.damaged-*")
    return [one for one in found if not one.name.endswith(("-wal", "-shm"))]


def _spoil(path: Path, damage: str) -> None:
    size = path.stat().st_size
    with path.open("r+b") as spoilt:
        if damage == "text":
            spoilt.write(b"This is no database at all. " * 40)
        else:
            spoilt.seek(4096)
            spoilt.write(bytes(size - 4096))


# --- a disk that fails -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or unmount is None:
        pytest.skip("needs root, to mount a small disk")
    if os.spawnv(os.P_WAIT, mount, ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]):
        pytest.skip("no disk can be mounted here")
    yield folder
    os.spawnv(os.P_WAIT, unmount, ["umount", "-l", str(folder)])


async def test_on_a_full_disk_nothing_is_added_and_all_is_found(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(small_disk) as store:
        await store.add("a", "s", said("kept"), LONG)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as full, contextlib.suppress(OSError):
            while full.write(b"x" * 1024):
                pass
        with pytest.raises(StoreFailed, match=r"the disk is full|the disk fails"):
            await _add_many(store)
        assert await texts(store, "a", "s", "kept") == ["kept"]
        filler.unlink()
        await store.add("a", "s", said("again"), LONG)
        assert await texts(store, "a", "s") == ["kept", "again"]
    assert caplog.text.count("requests go on without it") == 1


async def _add_many(store: SqliteStore) -> None:
    for _ in range(100):
        await store.add("a", "other", said("more " * 1000), LONG)


async def test_without_a_place_for_it_it_is_not_opened(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="cannot be used: File exists"):
        async with opened(tmp_path / "file"):
            pass
    async with opened(small_disk) as store:
        await store.add("a", "s", said("kept"), LONG)
    await _remount(small_disk, "ro")
    with pytest.raises(StoreFailed, match="Read-only file system"):
        async with opened(small_disk):
            pass
    await _remount(small_disk, "rw")
    async with opened(small_disk) as store:
        assert await texts(store, "a", "s") == ["kept"]


async def _remount(folder: Path, how: str) -> None:
    process = await asyncio.create_subprocess_exec("mount", "-o", f"remount,{how}", str(folder))
    assert await process.wait() == 0


# --- killed ------------------------------------------------------------------------------------


async def test_a_writer_that_is_killed_again_and_again_damages_nothing(tmp_path: Path) -> None:
    await killed_while_writing(tmp_path, 5)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_writer_that_is_killed_fifty_times_damages_nothing(tmp_path: Path) -> None:
    await killed_while_writing(tmp_path, 50)


async def killed_while_writing(folder: Path, times: int) -> None:
    """One process adds, forgets and tidies as fast as it can, and is killed, each time at another
    moment, while this one uses the file too. What it said was written is found."""
    chance = random.Random(times)
    confirmed: set[str] = set()
    async with opened(folder, 1 << 26) as store, starting(folder) as writers:
        for _ in range(times):
            pid = await writers.start()
            confirmed.add(await writers.line())
            await store.add("here", "s", said("x"), LONG)
            await asyncio.sleep(chance.random() * 0.1)
            os.kill(pid, signal.SIGKILL)
            while (line := await writers.line()) != "ended":
                confirmed.add(line)
        assert len(await texts(store, "here", "s", "", 100)) == min(times, 100)
        for name in confirmed:
            (text,) = await texts(store, "kept", name, name)
            assert text.endswith(name)
    assert rows(folder, "PRAGMA integrity_check") == [("ok",)]
    # Each memory has its terms, and none has those of another.
    left = "SELECT count(*) FROM words WHERE item NOT IN (SELECT id FROM items)"
    assert rows(folder, left) == [(0,)]


@dataclass
class Writers:
    """Processes that write into the file, one after the other: see `tests.memory.stores.writer`."""

    process: asyncio.subprocess.Process

    async def start(self) -> int:
        """The process's id."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return int(await self.line())

    async def line(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        assert line
        return line.decode().strip()


@asynccontextmanager
async def starting(folder: Path) -> AsyncIterator[Writers]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.memory.stores.writer", str(folder / "memory.db")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Writers(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


# --- how fast ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items", [200, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
@pytest.mark.parametrize("sessions", [100, 1])
async def test_how_long_it_takes(tmp_path: Path, items: int, sessions: int) -> None:
    chance = random.Random(1)
    words = [f"{chance.getrandbits(30):x}" for _ in range(3000)]
    took: dict[str, list[float]] = {"add": [], "search": [], "long search": [], "forget": []}
    async with opened(tmp_path) as store:

        async def timed(operation: str, call: object) -> None:
            began = time.monotonic()
            await call  # type: ignore[misc]
            took[operation].append(time.monotonic() - began)

        for number in range(items // 2):
            turns = said(*(" ".join(chance.choices(words, k=60)) for _ in range(2)))
            await timed("add", store.add("a", f"s{number % sessions}", turns, LONG))
        for number in range(100):
            session, query = f"s{number % sessions}", chance.choices(words, k=8)
            await timed("search", store.search("a", session, " ".join(query), 8))
            query = chance.choices(words, k=300)
            await timed("long search", store.search("a", session, " ".join(query), 8))
        await timed("forget", store.forget("a", None))
    size = (tmp_path / "memory.db").stat().st_size >> 10
    print(f"\n{items} memories in {sessions} sessions, {size} KiB:")
    for operation, seconds in took.items():
        seconds.sort()
        p50, p99 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
        print(f"  {operation}: p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
        assert p50 < 2.0  # a guard, no measure
