"""Processes that share a folder: what one scrape tells while they come, hang, die and stop.

The workers here are in one process. A lock (flock) belongs to an open file, not to a process: so
they see each other live and die as processes do, and only `tests/test_workers_metrics.py` needs
real ones.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proxy.net.siblings import Teller, ask
from proxy.observe import folder as folder_module
from proxy.observe.folder import CannotShare, Folder
from proxy.observe.merge import Snapshot, families
from proxy.observe.process import SILENT
from proxy.observe.siblings import Siblings
from proxy.observe.snapshot import encode

RULES = {"workers": "sum", "oldest": "min"}
SOON = 0.3
"""Seconds that siblings get to tell: those that do not hold a test up."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory() as short:
        yield Path(short) / "shared"


class Worker:
    """A registry, and its place in the folder."""

    def __init__(self, place: Path, within: float = 20.0) -> None:
        self.registry = CollectorRegistry()
        self.seen = Counter("seen", "Counted.", registry=self.registry)
        self.spans = Histogram("spans", "Seconds.", registry=self.registry, buckets=(1, 5))
        Gauge("workers", "Processes.", registry=self.registry).set(1)
        self.oldest = Gauge("oldest", "When.", registry=self.registry)
        self.folder = Folder(place)
        self.siblings = Siblings(
            self.folder, self.registry.collect, partial(ask, within=within), RULES
        )
        self.teller = Teller(self.folder.socket(), lambda: None, self.siblings.tell)

    async def start(self) -> None:
        self.folder.enter()
        await self.teller.start()

    def count(self, *seconds: float) -> None:
        for one in seconds:
            self.seen.inc()
            self.spans.observe(one)

    async def killed(self) -> None:
        """Nothing is written any more, and the kernel lets go of its locks."""
        self.folder.leave()
        await self.teller.close()

    async def stopped(self) -> None:
        self.siblings.finish()
        await self.killed()

    def scrape(self) -> dict[str, float]:
        """Blocks: in a thread when others have to answer."""
        samples = (sample for family in self.siblings.collect() for sample in family.samples)
        return {sample.name + sample.labels.get("le", ""): sample.value for sample in samples}

    async def scraped(self) -> dict[str, float]:
        return await asyncio.to_thread(self.scrape)


@asynccontextmanager
async def workers(place: Path, count: int, within: float = 20.0) -> AsyncIterator[list[Worker]]:
    found = [Worker(place, within) for _ in range(count)]
    for worker in found:
        await worker.start()
    try:
        yield found
    finally:
        for worker in found:
            await worker.killed()


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def a_gone_one(place: Path, left: bytes, id_: str = "00112233aabbccdd") -> str:
    """Files of a process that is no more."""
    place.mkdir(mode=0o700, exist_ok=True)
    (place / f"{id_}.lock").touch(0o600)
    (place / f"{id_}.json").write_bytes(left)
    return id_


def told(seen: int) -> bytes:
    worker = Worker(Path("unused"))
    worker.count(*[0.5] * seen)
    return encode(Snapshot(families(worker.registry.collect())))


# --- alive -------------------------------------------------------------------------------------


async def test_whoever_is_asked_tells_the_sum(place: Path) -> None:
    async with workers(place, 3) as found:
        for number, worker in enumerate(found):
            worker.count(*[0.5] * number, 3)
            worker.oldest.set(7 + number)
        for worker in found:
            figures = await worker.scraped()
            assert figures["seen_total"] == 6
            assert figures["spans_sum"] == 1.5 + 9
            assert [figures[f"spans_bucket{le}"] for le in ("1.0", "5.0", "+Inf")] == [3, 6, 6]
            assert figures["workers"] == 3
            assert figures["oldest"] == 7
            assert figures[SILENT] == 0


async def test_one_alone_tells_of_itself(place: Path) -> None:
    async with workers(place, 1) as (only,):
        only.count(2)
        figures = await only.scraped()
        assert (figures["seen_total"], figures["workers"]) == (1, 1)


async def test_another_version_has_its_own_families_and_bounds(place: Path) -> None:
    async with workers(place, 2) as (old, new):
        new.registry.unregister(new.spans)
        new.spans = Histogram("spans", "Seconds.", registry=new.registry, buckets=(2, 5))
        Counter("fresh", "New.", registry=new.registry).inc()
        old.count(1.5)
        new.count(1.5, 9)
        for worker in (old, new):
            figures = await worker.scraped()
            buckets = {name: value for name, value in figures.items() if "bucket" in name}
            assert figures["fresh_total"] == 1
            assert list(buckets.values()) == [0, 1, 2, 3]
            assert figures["spans_count"] == 3


# --- gone --------------------------------------------------------------------------------------


async def test_of_a_killed_one_what_it_told_stays_but_its_gauges(place: Path) -> None:
    async with workers(place, 2) as (stays, dies):
        dies.count(1, 2, 3)
        dies.oldest.set(-5)
        before = await stays.scraped()
        dies.count(4)  # nobody is told of this one
        await dies.killed()
        for _ in range(3):
            figures = await stays.scraped()
            assert figures["seen_total"] == before["seen_total"] == 3
            assert figures["spans_sum"] == before["spans_sum"] == 6
            assert (before["workers"], figures["workers"], figures[SILENT]) == (2, 1, 0)
            assert (before["oldest"], figures["oldest"]) == (-5, 0)
        assert len(names(place)) == 5


async def test_a_stopped_one_leaves_all_it_counted(place: Path) -> None:
    async with workers(place, 2) as (stays, stops):
        stops.count(1, 2)
        await stays.scraped()
        stops.count(3)
        await stops.stopped()
        assert (await stays.scraped())["seen_total"] == 3


async def test_after_its_end_a_worker_tells_what_it_told_last(place: Path) -> None:
    """Somebody who knew it alive may ask it after somebody else has folded it."""
    async with workers(place, 2) as (stays, stops):
        stops.count(1)
        stops.siblings.finish()
        last = stops.folder.socket().with_suffix(".json").read_bytes()
        stops.folder.leave()
        assert (await stays.scraped())["seen_total"] == 1
        left = names(place)
        stops.count(2)
        assert stops.siblings.tell() == last
        assert names(place) == left


async def test_who_comes_later_goes_on_from_those_before(place: Path) -> None:
    for total in range(1, 6):
        async with workers(place, 1) as (only,):
            only.count(1)
            assert (await only.scraped())["seen_total"] == total
    assert len(names(place)) == 4  # the last one's lock and figures are there until somebody looks


def test_restarts_that_nobody_scrapes_leave_nothing_behind(place: Path) -> None:
    for _ in range(20):
        worker = Worker(place)
        worker.folder.enter()
        worker.count(1)
        worker.siblings.finish()
        worker.folder.leave()
    assert len(names(place)) == 4
    worker = Worker(place)
    worker.folder.enter()
    assert worker.scrape()["seen_total"] == 20
    worker.folder.leave()


# --- crashes within a fold ---------------------------------------------------------------------


def fails_at(step: int, call: Callable[..., object], error: BaseException) -> Callable[..., object]:
    """`call`, of which the one with that number fails."""
    calls = iter(range(1000))

    def failing(*arguments: object, **named: object) -> object:
        if next(calls) == step:
            raise error
        return call(*arguments, **named)

    return failing


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(9))
def test_crashes_at_any_removal_count_nothing_twice(
    place: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(place)
    worker.folder.enter()
    gone = [a_gone_one(place, told(3), "0" * 16), a_gone_one(place, told(4), "1" * 16)]
    for more in ("2", "3"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", fails_at(step, os.unlink, Crash()))
            with pytest.raises(Crash):
                worker.folder.look()
        gone.append(a_gone_one(place, told(5), more * 16))
    for _ in range(2):
        assert worker.scrape()["seen_total"] == 17
    assert not [name for name in names(place) if name.partition(".")[0] in gone]
    worker.folder.leave()


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_crash_before_the_fold_is_written_loses_nothing(
    place: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(place)
    worker.folder.enter()
    a_gone_one(place, told(3))
    with monkeypatch.context() as patched:
        step = 0 if call == "replace" else 4  # folder.lock, its lock, gone.json, its figures, new
        patched.setattr(os, call, fails_at(step, getattr(os, call), Crash()))
        with pytest.raises(Crash):
            worker.folder.look()
    assert "gone.json" not in names(place)
    assert worker.scrape()["seen_total"] == 3
    worker.folder.leave()


def test_without_room_on_the_disk_nothing_is_lost_and_it_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(place)
    worker.folder.enter()
    worker.count(1)
    a_gone_one(place, told(3))
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_: object, **__: object) -> None:
        raise full

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "glm_proxy"):
        patched.setattr(os, "replace", no_room)
        assert [worker.scrape()["seen_total"] for _ in range(2)] == [4, 4]
    assert "No space left on device" in caplog.text
    assert worker.scrape()["seen_total"] == 4
    worker.folder.leave()


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [b"", b"{", told(3)[:-5], b"\xff" * 99, b"[1]"])
def test_a_damaged_file_is_moved_aside_and_told(
    place: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(place)
    worker.folder.enter()
    worker.count(1)
    gone = a_gone_one(place, damaged)
    with caplog.at_level(logging.WARNING, "glm_proxy"):
        assert worker.scrape()["seen_total"] == 1
    assert f"{gone}.json.damaged is damaged" in caplog.text
    assert (place / f"{gone}.json.damaged").read_bytes() == damaged
    caplog.clear()
    assert worker.scrape()["seen_total"] == 1
    assert caplog.text == ""
    worker.folder.leave()


def test_damaged_figures_of_the_gone_are_moved_aside_and_those_left_count(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(place)
    worker.folder.enter()
    a_gone_one(place, told(3))
    assert worker.scrape()["seen_total"] == 3
    (place / "gone.json").write_bytes(b"nonsense")
    a_gone_one(place, told(4))
    with caplog.at_level(logging.WARNING, "glm_proxy"):
        assert worker.scrape()["seen_total"] == 4
    assert "gone.json.damaged is damaged" in caplog.text
    worker.folder.leave()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_links_and_pipes_by_the_name_of_figures_are_not_followed(place: Path, kind: str) -> None:
    worker = Worker(place)
    worker.folder.enter()
    elsewhere = place.parent / "elsewhere"
    elsewhere.write_bytes(told(3))
    gone = a_gone_one(place, b"")
    path = place / f"{gone}.json"
    path.unlink()
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert worker.scrape()["seen_total"] == 0
    assert elsewhere.read_bytes() == told(3)
    worker.folder.leave()


def test_links_by_the_name_of_locks_and_of_new_files_are_not_followed(place: Path) -> None:
    worker = Worker(place)
    worker.folder.enter()
    elsewhere = place.parent / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (place / f"{'a' * 16}.lock").symlink_to(elsewhere)
    own = worker.folder.socket().with_suffix(".json.tmp")
    own.symlink_to(elsewhere)
    (place / "gone.json.tmp").symlink_to(elsewhere)
    a_gone_one(place, told(3))
    assert worker.scrape()["seen_total"] == 3
    assert elsewhere.read_bytes() == b"theirs"
    assert not own.exists()
    worker.folder.leave()


# --- alive, and no answer ----------------------------------------------------------------------


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(path: Path, answer: Answer | None) -> AsyncIterator[None]:
    """Somebody at that socket, or nobody."""
    if answer is None:
        yield
        return
    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"<html>")
    writer.close()


async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(told(9)[:-9])
    writer.close()


async def forever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(b"[" * 9999)
            await writer.drain()
    except OSError:
        writer.close()


@pytest.mark.parametrize("answer", [hang, leave, garbage, half, forever, None])
async def test_of_a_silent_one_its_last_figures_count_and_it_is_told(
    place: Path, answer: Answer | None
) -> None:
    async with workers(place, 1, SOON) as (asked,):
        asked.count(1)
        silent = Worker(place)
        silent.folder.enter()
        silent.count(2, 3)
        silent.siblings.tell()
        silent.count(4)
        async with answering(silent.folder.socket(), answer):
            figures = await asked.scraped()
        assert (figures["seen_total"], figures["spans_sum"]) == (3, 6)
        assert (figures["workers"], figures[SILENT]) == (1, 1)

        # It comes round.
        await silent.teller.start()
        figures = await asked.scraped()
        assert (figures["seen_total"], figures["workers"], figures[SILENT]) == (4, 2, 0)
        await silent.killed()


async def test_one_that_dies_while_it_is_asked_is_gone_and_not_silent(place: Path) -> None:
    async with workers(place, 1) as (asked,):
        dies = Worker(place)
        dies.folder.enter()
        dies.count(1, 2)
        dies.siblings.tell()

        async def die(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dies.folder.leave()
            # Somebody else sees that first.
            other = Folder(place)
            await asyncio.to_thread(other.enter)
            other.leave()
            writer.close()

        async with answering(dies.folder.socket(), die):
            scrapes = [await asked.scraped() for _ in range(2)]
        for figures in scrapes:
            assert (figures["seen_total"], figures["workers"], figures[SILENT]) == (2, 1, 0)


async def test_one_that_has_told_nothing_yet_adds_nothing(place: Path) -> None:
    async with workers(place, 1) as (asked,):
        silent = Worker(place)
        silent.folder.enter()
        figures = await asked.scraped()
        assert (figures["seen_total"], figures[SILENT]) == (0, 1)
        silent.folder.leave()


# --- at the same time --------------------------------------------------------------------------


async def test_many_scrapes_at_once_agree(place: Path) -> None:
    async with workers(place, 3) as found:
        for worker in found:
            worker.count(1, 2)
        for number in range(4):
            a_gone_one(place, told(5), f"{number:016x}")
        with ThreadPoolExecutor(12) as threads:
            loop = asyncio.get_running_loop()
            asked = [loop.run_in_executor(threads, one.scrape) for one in found for _ in range(4)]
            for figures in await asyncio.gather(*asked):
                assert (figures["seen_total"], figures["workers"]) == (26, 3)


async def test_scrapes_while_others_start_and_stop_never_fall_and_end_exact(place: Path) -> None:
    ended = threading.Event()

    def watch(worker: Worker) -> list[float]:
        seen = []
        while not ended.is_set():
            seen.append(worker.scrape()["seen_total"])
        return seen

    async with workers(place, 2) as found:
        watching = [asyncio.create_task(asyncio.to_thread(watch, one)) for one in found]
        for _ in range(8):
            async with workers(place, 2) as (one, other):
                one.count(1)
                other.count(1, 1)
                await one.stopped()
                await other.scraped()
                await other.stopped()
        ended.set()
        for seen in await asyncio.gather(*watching):
            assert seen == sorted(seen)
        assert [(await one.scraped())["seen_total"] for one in found] == [24, 24]


# --- the folder itself -------------------------------------------------------------------------


def test_a_missing_folder_is_made_for_this_user_only(place: Path) -> None:
    deep = place / "a" / "b"
    folder = Folder(deep)
    folder.enter()
    folder.keep(told(1))
    assert deep.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in deep.iterdir()} == {0o600}
    folder.leave()


async def test_the_socket_is_for_this_user_only(place: Path) -> None:
    async with workers(place, 1) as (worker,):
        assert worker.folder.socket().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(place: Path, mode: int) -> None:
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(CannotShare) as caught:
        Folder(place).enter()
    says = f"metrics.folder {place} can be written to by other users; chmod 700 it"
    assert str(caught.value) == says
    assert names(place) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    with pytest.raises(CannotShare, match="belongs to another user"):
        Folder(place).enter()


def test_a_path_too_long_for_a_socket_is_refused(place: Path) -> None:
    room = 107 - len("/0123456789abcdef.sock") - len(os.fsencode(place)) - 1
    Folder(place / ("x" * room)).enter()
    with pytest.raises(CannotShare, match="is 3 bytes too long for the path of a socket"):
        Folder(place / ("x" * (room + 3))).enter()


async def test_a_path_of_the_greatest_length_takes_a_socket(place: Path) -> None:
    room = 107 - len("/0123456789abcdef.sock") - len(os.fsencode(place)) - 1
    async with workers(place / ("x" * room), 2) as found:
        assert (await found[0].scraped())["workers"] == 2


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_refused(place: Path, kind: str) -> None:
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(place.parent)
    with pytest.raises(CannotShare, match=r"cannot be used \("):
        Folder(place).enter()


def test_one_who_holds_the_lock_and_does_not_move_is_told_of(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_PATIENCE", 0.05)
    worker = Worker(place)
    worker.folder.enter()
    with (place / "folder.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="does not move"):
            worker.scrape()
        with pytest.raises(CannotShare, match="another process holds folder"):
            Folder(place).enter()
    assert worker.scrape()["workers"] == 1
    worker.folder.leave()
