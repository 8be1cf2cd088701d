"""One thread that owns one SQLite file: the event loop only hands it functions."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from proxy.state.home import StateError

T = TypeVar("T")
C = TypeVar("C")

_MOST_WAITING: Final = 10_000
"""Jobs; further ones are refused."""
_LAST_JOBS: Final = 2.0
"""Seconds to wait for the thread at the end."""


class _Job(NamedTuple):
    work: Callable[[Any], Any]
    future: asyncio.Future[Any]


class DatabaseThread(Generic[C]):
    """From `start` to `stop`. It is a daemon: a disk that hangs does not keep the process."""

    def __init__(
        self,
        name: str,
        make: Callable[[], C],
        close: Callable[[C], None],
        look: Callable[[C], None] | None = None,
        every: float = 3600.0,
    ) -> None:
        """`make` opens what jobs are called with, `close` closes it; `look` is called every so many
        seconds. All three in the thread; `make` may raise StateError, the others must not."""
        self._name = name
        self._make = make
        self._close = close
        self._look = look
        self._every = every
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Raises StateError."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        self._jobs = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=self._name, daemon=True
        )
        self._thread.start()
        await started

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        await asyncio.to_thread(thread.join, _LAST_JOBS)

    async def do(self, work: Callable[[C], T]) -> T:
        """What `work` returns. Raises StateError; what else it raises is a defect. If nobody waits
        for it any more before it begins, it is not done."""
        if self._thread is None:
            raise StateError(f"{self._name} is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._jobs.put_nowait(_Job(work, future))
        except queue.Full:
            raise StateError("too much waits to be written") from None
        return await future

    def _run(self, started: asyncio.Future[None]) -> None:
        try:
            owned = self._make()
        except StateError as error:
            _answer(started, error=error)
            return
        _answer(started, None)
        try:
            self._work(owned)
        finally:
            self._close(owned)

    def _work(self, owned: C) -> None:
        looked = time.monotonic()
        while True:
            try:
                job = self._jobs.get(timeout=max(0.0, looked + self._every - time.monotonic()))
            except queue.Empty:
                job = None
            else:
                if job is None:
                    return
                self._do(job, owned)
            if self._look is not None and time.monotonic() >= looked + self._every:
                looked = time.monotonic()
                self._look(owned)

    def _do(self, job: _Job, owned: C) -> None:
        if job.future.cancelled():
            return
        try:
            result = job.work(owned)
        except (StateError, sqlite3.Error, OSError) as error:
            _answer(job.future, error=error)
        else:
            _answer(job.future, result)


def _answer(
    future: asyncio.Future[Any], result: object = None, *, error: Exception | None = None
) -> None:
    # A loop that is closed waits for nothing.
    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_set, future, result, error)


def _set(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
