"""The workers of a master: made by fork, watched by their beat, and buried."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from proxy.observe.app_log import LOGGER
from proxy.workers.channel import Channel, Message
from proxy.workers.drain import ENDING

log = logging.getLogger(LOGGER)

_SILENCE: Final = 7.0
"""Seconds without a beat after which a worker hangs; its clients have waited long enough."""
_HELD_UP: Final = 2.0
"""Seconds between two of the master's own looks that mean that it was held up itself, and perhaps
its workers with it: they all get their time again."""
IGNORED: Final = (*(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU),)
"""What is for the master, and may reach its workers when it is sent to all."""


@dataclass
class Worker:
    """One of them, as the master sees it. Times are of the monotonic clock."""

    pid: int
    channel: Channel
    born: float
    heard: float
    settings: int
    """The number of those it was given last."""
    ready: bool = False
    leaving: bool = False
    why: str | None = None
    """Why it cannot start, in its own words."""


class Ended(NamedTuple):
    worker: Worker | None
    """`None` for a process that was none."""
    how: str
    """For the log: `exit code 1`, `SIGKILL`."""


class Crew:
    """All workers there are, those that leave included."""

    def __init__(self, run: Callable[[Channel], int], close: Callable[[], None]) -> None:
        """`run` is a worker's life. `close`: what is the master's own, in the worker."""
        self._run = run
        self._close = close
        self._looked = time.monotonic()
        self.all: dict[int, Worker] = {}

    def staying(self) -> list[Worker]:
        return [worker for worker in self.all.values() if not worker.leaving]

    def spawn(self, now: float, settings: int) -> Worker:
        """Raises OSError when the system has no room for another process."""
        here, there = Channel.pair()
        caught = set(signal.Signals)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
        try:
            pid = os.fork()
            if pid == 0:
                here.close()
                self._live(there)
        except OSError:
            here.close()
            raise
        finally:
            there.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        worker = self.all[pid] = Worker(pid, here, now, now, settings)
        return worker

    def _live(self, master: Channel) -> NoReturn:
        """In the new process; whatever happens, nothing of the master's goes on in it."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*ENDING, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for number in IGNORED:
                signal.signal(number, signal.SIG_IGN)
            for sibling in self.all.values():
                # One that holds the other end would not see the master die.
                sibling.channel.close()
            self._close()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            code = self._run(master)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def bury(self) -> Iterator[tuple[int, Ended]]:
        """Processes of ours that have ended, whatever they were. A worker's last words can still
        be read."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            worker = self.all.pop(pid, None)
            yield pid, Ended(worker, how(status))
            if worker is not None:
                worker.channel.close()

    def messages(self, worker: Worker, now: float) -> Iterator[Message]:
        """What it has said since. Any of it proves that it lives."""
        try:
            while (message := worker.channel.receive()) is not None:
                worker.heard = now
                yield message
        except EOFError:
            return

    def end_hung(self, now: float) -> None:
        """Kill those that have been silent for too long."""
        late = now - self._looked
        self._looked = now
        for worker in self.all.values():
            if late > _HELD_UP:
                worker.heard = now
            elif now - worker.heard > _SILENCE:
                log.error("worker %d has hung for %.1f s; it is killed", worker.pid, _SILENCE)
                worker.heard = now
                os.kill(worker.pid, signal.SIGKILL)

    def tell(self, kind: str, data: bytes = b"") -> None:
        """All of them, those that leave included."""
        for worker in self.all.values():
            worker.channel.send(kind, data)

    def kill(self) -> None:
        for pid in self.all:
            os.kill(pid, signal.SIGKILL)


def how(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
