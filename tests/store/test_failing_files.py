"""A file that is damaged, another's, taken away or shared: copies may be lost, nothing else."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
from pathlib import Path

from proxy.config import AnswerStore
from proxy.store import AnswerStore as Store
from proxy.store.shelf import OVERHEAD, Item
from proxy.store.sqlite import SqliteShelf
from tests.fakes.until import until
from tests.store.stores import in_file, opened

ALICE = "key:alice"
ROOT = Path(__file__).parents[2]


async def kept(store: Store, key: str = "a", value: bytes = b"value") -> None:
    async with asyncio.timeout(20):
        while await store.get(ALICE, key) != value:
            store.put(ALICE, key, value, 60.0)
            await asyncio.sleep(0.02)


async def written(settings: AnswerStore, count: int) -> None:
    """Until the file has so many entries."""

    def entries() -> int:
        with sqlite3.connect(settings.path, timeout=5) as db:
            return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])

    await until(lambda: entries() == count)


async def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    settings = AnswerStore(url=f"sqlite:{tmp_path}/deep/answers.db")
    async with opened(settings) as (stores, _):
        await kept(stores.of(settings, "cache"))
        await written(settings, 1)
        for path in settings.path.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(settings.path.parent.stat().st_mode) == 0o700


async def test_a_damaged_file_is_kept_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    settings = in_file(tmp_path)
    settings.path.write_bytes(b"SQLite format 3\0" + b"\x01" * 5000)
    async with opened(settings) as (stores, _):
        await kept(stores.of(settings, "cache"))
    assert len(list(tmp_path.glob("answers.db.damaged-*"))) == 1


async def test_a_file_that_is_damaged_in_use_is_replaced(tmp_path: Path) -> None:
    settings = in_file(tmp_path)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        for n in range(50):
            store.put(ALICE, str(n), bytes(20_000), 60.0)
        await written(settings, 50)
        with sqlite3.connect(settings.path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = settings.path.stat().st_size
        with settings.path.open("r+b") as file:
            file.write(b"\xaa" * size)
        for n in range(50):
            found = await store.get(ALICE, str(n))
            assert found in (None, bytes(20_000))
        await kept(store)
        assert told.failures
    assert len(list(tmp_path.glob("answers.db.damaged-*[0-9]"))) == 1


async def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    settings = in_file(tmp_path)
    with sqlite3.connect(settings.path) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = settings.path.read_bytes()
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        assert await store.get(ALICE, "a") is None
        store.put(ALICE, "a", b"x", 60.0)
        assert told.failures["open"] == 1
        assert told.failures["dropped"] == 1
    assert settings.path.read_bytes() == before


async def test_what_is_over_is_not_told_though_it_is_still_there(tmp_path: Path) -> None:
    shelf = SqliteShelf(tmp_path / "answers.db", 5.0, 1 << 20)
    await shelf.reach()
    try:
        await shelf.write([Item(b"a", b"short", 0.05), Item(b"b", b"long", 60.0)], ())
        async with asyncio.timeout(20):
            while await shelf.get(b"a") is not None:
                await asyncio.sleep(0.01)
        assert await shelf.get(b"b") == b"long"
        assert await shelf.sweep() == len(b"long") + OVERHEAD
    finally:
        await shelf.stop()


async def test_a_folder_that_cannot_be_written_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = AnswerStore(url=f"sqlite:{tmp_path}/file/answers.db")
    async with opened(settings) as (stores, told):
        assert await stores.of(settings, "cache").get(ALICE, "a") is None
        assert told.failures["open"] == 1


async def test_a_file_that_is_taken_away_in_use_is_made_anew(tmp_path: Path) -> None:
    settings = in_file(tmp_path)
    async with opened(settings) as (stores, _):
        store = stores.of(settings, "cache")
        await kept(store)
        await written(settings, 1)
        for path in tmp_path.glob("answers.db*"):
            path.unlink()
        async with asyncio.timeout(20):
            while not settings.path.exists():
                await asyncio.sleep(0.02)
        await kept(store, "b")
        await written(settings, 1)


async def test_whoever_writes_for_long_delays_nobody_who_reads(tmp_path: Path) -> None:
    settings = in_file(tmp_path)
    async with opened(settings) as (stores, _):
        store = stores.of(settings, "cache")
        await kept(store)
        await written(settings, 1)
        other = sqlite3.connect(settings.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.put(ALICE, "b", b"later", 60.0)
        for _ in range(50):
            assert await store.get(ALICE, "a") == b"value"
            assert await store.get(ALICE, "b") == b"later"
        other.execute("COMMIT")
        other.close()
        await written(settings, 2)


WRITER = """
import asyncio, sys
from tests.store.stores import in_file, opened
from pathlib import Path

async def main():
    settings = in_file(Path(sys.argv[1]), max_size=int(sys.argv[3]))
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        for n in range(200):
            store.put("key:alice", f"{sys.argv[2]}-{n}", bytes(1000), 60.0)
            if n % 20 == 0:
                await asyncio.sleep(0.01)
    assert not told.failures, told.failures

asyncio.run(main())
"""


async def test_several_processes_keep_to_one_size_together(tmp_path: Path) -> None:
    room = 150 * (1016 + OVERHEAD)
    settings = in_file(tmp_path, max_size=room)
    writers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, str(tmp_path), str(n), str(room)),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for n in range(2)
    ]
    assert [await one.wait() for one in writers] == [0, 0]
    with sqlite3.connect(settings.path) as db:
        (held,) = db.execute("SELECT held FROM store").fetchone()
        size, count = db.execute("SELECT sum(size), count(*) FROM entries").fetchone()
        (bodies,) = db.execute("SELECT count(*) FROM bodies").fetchone()
    assert held == size <= room
    assert count == bodies > 100
    async with opened(settings) as (stores, _):
        store = stores.of(settings, "cache")
        assert await store.get(ALICE, "0-199") or await store.get(ALICE, "1-199")
