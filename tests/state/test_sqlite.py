"""The file of state: made for its user alone, checked, shared, and done without when it fails."""

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
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.config import Allowance
from proxy.core.policy.limits import DAY, Want
from proxy.state.counting import Settlement
from proxy.state.home import Home, StateError
from proxy.state.sqlite import registry
from proxy.state.sqlite.counts import CountsFile
from proxy.state.sqlite.database import Schema
from tests.state.homes import PLENTY, a_key, a_switch, an_entry, in_file, opened, until

A_DAY = (Want("key:a", Allowance(tokens_per_day=100), 10),)


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(one.getMessage() for one in caplog.records)


async def saved(folder: Path) -> str:
    """The id of a key in a file that was closed properly."""
    async with opened(in_file(folder)) as (home, _):
        key = a_key().key
        await home.save_key(key, an_entry())
        assert (await home.take(A_DAY, "a")).refused is None
        return key.id


# --- the file ----------------------------------------------------------------------------------


async def test_only_its_user_may_read_it_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(in_file(tmp_path / "new" / "folder")) as (home, _):
            await home.save_key(a_key().key, an_entry())
            await home.take(PLENTY, "a")
            files = sorted((tmp_path / "new" / "folder").iterdir())
            assert len(files) == 6  # two files, each with its -wal and -shm
            assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
            assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


async def test_one_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch(0o644)
    async with opened(in_file(tmp_path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_it_holds_keys_switches_the_audit_and_counts_and_no_more(tmp_path: Path) -> None:
    await saved(tmp_path)
    columns = set()
    for path in (tmp_path / "state.db", tmp_path / "state.db.counts"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
                names = db.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchall()
                columns |= {f"{table}.{name}" for (name,) in names}
    assert {one.partition(".")[0] for one in columns} == {
        *("keys", "switches", "audit", "sqlite_sequence"),
        *("used", "places", "replicas", "lessons"),
    }


async def test_the_audit_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "AUDITED", 10)
    async with opened(in_file(tmp_path)) as (home, _):
        for number in range(25):
            await home.note(an_entry("reload", str(number)))
        assert [one.subject for one in await home.audit(100)] == [str(n) for n in range(24, 14, -1)]


async def test_what_is_put_into_it_is_data(tmp_path: Path) -> None:
    nasty = "x'); DROP TABLE keys; --"
    async with opened(in_file(tmp_path)) as (home, seen):
        await home.save_key(a_key().key, an_entry("key.create", nasty))
        assert await home.drop_switches([nasty, "%", "*"], an_entry("model.reset", nasty)) == 0
        assert (await home.take((Want(nasty, Allowance(concurrent=1), 0),), nasty)).refused is None
        assert len(seen.registries[-1].keys) == 1
        assert (await home.audit(1))[0].subject == nasty


# --- versions ----------------------------------------------------------------------------------


async def test_the_next_version_reads_this_one_and_this_one_refuses_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = await saved(tmp_path)
    step = "ALTER TABLE keys ADD COLUMN later TEXT; PRAGMA user_version = 2"
    newer = Schema(registry.SCHEMA.application, (*registry.SCHEMA.steps, step))
    with monkeypatch.context() as patched:
        patched.setattr(registry, "SCHEMA", newer)
        async with opened(in_file(tmp_path)) as (_, seen):
            assert list(seen.registries[0].keys) == [key_id]
    with pytest.raises(StateError, match=r"by a newer glm-proxy \(form 2; this one knows 1\)"):
        async with opened(in_file(tmp_path)):
            pass
    # With access: open it is left alone, and done without.
    async with opened(in_file(tmp_path), strict=False) as (home, seen):
        assert "newer" in (home.trouble or "")
        assert (await home.take(PLENTY, "a")).refused is None
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        assert db.execute("SELECT id, later FROM keys").fetchall() == [(key_id, None)]


async def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE cookies (secret TEXT)")
        db.commit()
    path.chmod(0o664)
    before = path.read_bytes()
    for strict in (True, False):
        with contextlib.suppress(StateError):
            async with opened(in_file(tmp_path), strict=strict) as (home, _):
                assert "belongs to another program" in (home.trouble or "")
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "zeros", "cut"])
async def test_a_damaged_file_is_moved_aside_where_nobody_needs_its_keys(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await saved(tmp_path)
    path = tmp_path / "state.db"
    spoil(path, damage)
    spoilt = path.read_bytes()
    with pytest.raises(StateError, match=r"state\.db is damaged; restore it from a copy"):
        async with opened(in_file(tmp_path)):
            pass
    assert path.read_bytes() == spoilt
    async with opened(in_file(tmp_path), strict=False) as (home, seen):
        assert seen.registries[0].keys == {}
        assert home.trouble is None
        await home.save_key(a_key().key, an_entry())
    (aside,) = tmp_path.glob("state.db.damaged-*")
    assert aside.read_bytes() == spoilt
    assert "is damaged; it is kept as" in messages(caplog)


async def test_damaged_counts_begin_anew(tmp_path: Path) -> None:
    key_id = await saved(tmp_path)
    spoil(tmp_path / "state.db.counts", "text")
    async with opened(in_file(tmp_path)) as (home, seen):
        assert home.trouble is None
        assert list(seen.registries[0].keys) == [key_id]
        assert (await home.take(PLENTY, "a")).refused is None
    assert not list(tmp_path.glob("*damaged*"))


async def test_several_that_find_a_damaged_file_move_it_aside_once(tmp_path: Path) -> None:
    await saved(tmp_path)
    spoil(tmp_path / "state.db", "text")
    async with contextlib.AsyncExitStack() as stack:
        both = await asyncio.gather(
            *(stack.enter_async_context(opened(in_file(tmp_path), strict=False)) for _ in range(4))
        )
        key = a_key().key
        await both[0][0].save_key(key, an_entry())
        await until(lambda: all(key.id in seen.registries[-1].keys for _, seen in both))
    assert len(list(tmp_path.glob("state.db.damaged-*"))) == 1


def spoil(path: Path, damage: str) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "text":
            file.write(b"This is no database at all. " * 40)
        elif damage == "cut":
            file.truncate(size - 4096)
        else:
            file.seek(4096)
            file.write(bytes(size - 4096))


# --- a disk that fails -------------------------------------------------------------------------


async def test_without_a_place_for_it_requests_go_on_and_changes_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    state = in_file(tmp_path / "file")
    with pytest.raises(StateError, match="cannot be used: File exists"):
        async with opened(state):
            pass
    async with opened(state, strict=False) as (home, seen):
        for number in range(50):
            assert (await home.take(PLENTY, str(number))).refused is None
            home.settle(PLENTY, str(number), 5)
        with pytest.raises(StateError, match="File exists"):
            await home.save_key(a_key().key, an_entry())
        assert seen.up == [False]
    assert messages(caplog).count("state:") == 2  # the file, and its counts


async def test_a_file_that_others_hold_for_long_costs_no_request_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_BUSY", 0.3)
    async with opened(in_file(tmp_path)) as (home, seen):
        await home.take(PLENTY, "a")
        with holding(tmp_path / "state.db.counts"), holding(tmp_path / "state.db"):
            began = time.monotonic()
            for number in range(50):
                assert (await home.take(PLENTY, str(number))).refused is None
                home.settle(PLENTY, str(number), 5)
            assert time.monotonic() - began < 5
            assert seen.up == [True, False]
            with pytest.raises(StateError, match="has been writing to it for too long"):
                await home.save_key(a_key().key, an_entry())
        await until(lambda: home.trouble is None)
        await home.save_key(a_key().key, an_entry())


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


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


async def test_on_a_full_disk_requests_go_on_and_changes_fail(small_disk: Path) -> None:
    async with opened(in_file(small_disk)) as (home, seen):
        key = a_key().key
        await home.save_key(key, an_entry())
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 1024):
                pass
        for number in range(600):
            want = (Want(f"key:{number}", Allowance(requests_per_minute=5, concurrent=5), 5),)
            assert (await home.take(want, str(number))).refused is None
            home.settle(want, str(number), 5)
        with pytest.raises(StateError, match=r"the disk is full|the disk fails"):
            await save_many(home)
        assert key.id in seen.registries[-1].keys
        filler.unlink()
        await until(lambda: home.trouble is None)
        await home.save_switch(a_switch(), an_entry("model.set"))


async def save_many(home: Home) -> None:
    for _ in range(100):
        await home.save_key(a_key("x" * 60).key, an_entry())


async def test_a_read_only_disk_is_done_without(small_disk: Path) -> None:
    key_id = await saved(small_disk)
    await remount(small_disk, "ro")
    with pytest.raises(StateError, match="Read-only file system"):
        async with opened(in_file(small_disk)):
            pass
    async with opened(in_file(small_disk), strict=False) as (home, _):
        assert (await home.take(PLENTY, "a")).refused is None
    await remount(small_disk, "rw")
    async with opened(in_file(small_disk)) as (_, seen):
        assert list(seen.registries[0].keys) == [key_id]


async def remount(folder: Path, how: str) -> None:
    process = await asyncio.create_subprocess_exec("mount", "-o", f"remount,{how}", str(folder))
    assert await process.wait() == 0


# --- several processes -------------------------------------------------------------------------


async def test_tokens_of_a_day_are_kept_over_a_restart(tmp_path: Path) -> None:
    async with opened(in_file(tmp_path)) as (home, _):
        assert (await home.take(A_DAY, "a")).refused is None
        home.settle(A_DAY, "a", 95)
    async with opened(in_file(tmp_path)) as (home, _):
        refused = (await home.take(A_DAY, "b")).refused
        assert refused is not None
        assert refused.what == "day"


def test_after_the_machine_started_anew_only_the_day_is_known(tmp_path: Path) -> None:
    """The monotonic clock begins again: what was counted by the one before is of the future."""
    clock = [90_000.0]
    want = (Want("key:a", Allowance(requests_per_minute=1, concurrent=1, tokens_per_day=100), 10),)
    file = CountsFile(tmp_path / "counts", 1.0, lambda: clock[0], lambda: 20_000.5 * DAY)
    assert file.take(want, "a").refused is None
    refused = file.take(want, "b").refused
    assert refused is not None
    assert refused.what == "requests"
    clock[0] = 30.0
    assert file.beat() == 1
    assert file.take(want, "b").refused is None
    file.settle([Settlement(want, "b", 85)])
    clock[0] = 330.0
    refused = file.take(want, "c").refused
    assert refused is not None
    assert refused.what == "day"
    file.close()


def test_processes_that_end_without_a_word_leave_their_places_and_their_share(
    tmp_path: Path,
) -> None:
    clock = [1000.0]
    one, other = (CountsFile(tmp_path / "counts", 1.0, lambda: clock[0]) for _ in range(2))
    place = (Want("key:a", Allowance(concurrent=1), 0),)
    assert [one.beat(), other.beat()] == [1, 2]
    assert one.take(place, "a").refused is None
    assert other.take(place, "b").refused is not None
    clock[0] += 61
    assert other.beat() == 1
    assert other.take(place, "b").refused is None
    one.close()
    other.close()


async def test_a_writer_that_is_killed_again_and_again_damages_nothing(tmp_path: Path) -> None:
    await killed_while_writing(tmp_path, 10)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_writer_that_is_killed_two_hundred_times_damages_nothing(tmp_path: Path) -> None:
    await killed_while_writing(tmp_path, 200)


async def killed_while_writing(folder: Path, times: int) -> None:
    """Two processes write as fast as they can; one of them is killed, each time at another moment.
    What it said was saved is there."""
    chance = random.Random(times)
    confirmed: set[str] = set()
    async with opened(in_file(folder)) as (home, seen), writing(folder) as writers:
        for _ in range(times):
            pid = await writers.start()
            confirmed.add(await writers.line())
            await asyncio.sleep(chance.random() * 0.05)
            await home.save_switch(a_switch(), an_entry("model.set"))
            os.kill(pid, signal.SIGKILL)
            while (line := await writers.line()) != "ended":
                confirmed.add(line)
        assert (await home.take(PLENTY, "a")).refused is None
        await until(lambda: confirmed <= seen.registries[-1].keys.keys())
    for path in (folder / "state.db", folder / "state.db.counts"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with opened(in_file(folder)) as (_, late):
        assert confirmed <= late.registries[0].keys.keys()


@dataclass
class Writers:
    """Processes that write into the file, one after the other: see `tests.state.writer`."""

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
async def writing(folder: Path) -> AsyncIterator[Writers]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.state.writer", str(folder / "state.db")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Writers(process)
    finally:
        process.kill()
        await process.wait()


async def test_a_file_at_work_holds_up_no_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that touches the disk is done elsewhere."""
    monkeypatch.setattr(registry, "_BUSY", 0.5)
    slow: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            slow.append(time.monotonic() - began)

    async with opened(in_file(tmp_path)) as (home, _):
        beating = asyncio.ensure_future(beat())
        with holding(tmp_path / "state.db"), pytest.raises(StateError):
            await home.save_key(a_key().key, an_entry())
        beating.cancel()
    assert len(slow) > 20  # it had to wait for half a second
