"""The process that serves nothing: it holds the sockets, and keeps as many workers as it should.

SIGTERM, SIGINT   the workers let what runs finish, within `server.drain_timeout`; the second one
                  ends them all within two seconds
SIGHUP            read the settings again: one worker tries them, then all the others take them
SIGUSR2           start a successor; when it is ready, end as by SIGTERM
SIGTTIN, SIGTTOU  one worker more, one less
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from proxy.config import Config
from proxy.net.listen import Listeners
from proxy.observe.app_log import LOGGER
from proxy.workers import channel, worker
from proxy.workers.activation import Systemd
from proxy.workers.channel import Channel
from proxy.workers.crew import IGNORED, Crew, Ended, Worker
from proxy.workers.drain import ENDING, KEPT
from proxy.workers.folder import RunFolder
from proxy.workers.pace import Pace
from proxy.workers.reload import Reload
from proxy.workers.successor import PATIENCE, Command, Successor
from proxy.workers.words import ERROR, OUT, listening, say, stopping

log = logging.getLogger(LOGGER)

_LOOK: Final = 0.5
"""Seconds between two looks at what nobody tells."""
_TRIES: Final = 3
"""Workers that may end before any has ever been ready."""
_LAST: Final = 1.8
"""Seconds for the workers after a second signal, before they are killed."""
_SLACK: Final = 10.0
"""Seconds that a worker may need beyond `server.drain_timeout`."""
_NEVER: Final = float("inf")


class Master:
    """`run` once. The sockets stay open until the process ends."""

    def __init__(
        self,
        config: Config,
        workers: int,
        listeners: Listeners,
        *,
        make: worker.Make,
        load: Callable[[], Config],
        command: Command,
        systemd: Systemd,
        folder: RunFolder | None,
        old: Channel | None = None,
    ) -> None:
        """`load` reads the settings again and raises ConfigError. `command` starts a successor;
        `old` is the master that this one is the successor of."""
        self._target = workers
        self._listeners = listeners
        self._make = make
        self._command = command
        self._systemd = systemd
        self._folder = folder
        self._old = old
        self._crew = Crew(self._life, self._let_go)
        self._settings = Reload(config, load, self._crew, systemd)
        self._pace = Pace()
        self._signals: deque[int] = deque()
        self._wake: socket.socket
        self._waker: socket.socket
        self._successor: Successor | None = None
        self._announced = False
        self._failures = 0
        """Workers that ended before any was ready."""
        self._told_to_end = 0
        self._code: int | None = None
        """The exit code, once there is to be an end."""
        self._replaced = False
        self._deadline = _NEVER
        """When those that are still there are killed."""

    def run(self) -> int:
        """The exit code."""
        with self._woken():
            self._fill(time.monotonic())
            while self._code is None or self._crew.all:
                self._turn()
        return self._code

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        while self._signals:
            self._signalled(signal.Signals(self._signals.popleft()), now)
        for one in tuple(self._crew.all.values()):
            self._read(one, now)
        if self._successor is not None:
            self._hear(self._successor, now)
        for pid, ended in self._crew.bury():
            self._buried(pid, ended, now)
        self._crew.end_hung(now)
        self._expire(now)
        self._fill(now)
        self._systemd.lives(now)

    # --- workers -------------------------------------------------------------------------------

    def _life(self, master: Channel) -> int:
        # While others serve, one that cannot tell who may ask would only refuse their callers.
        follows = self._old is not None and not self._announced
        follows |= any(one.ready for one in self._crew.staying())
        return worker.run(
            self._settings.config, self._listeners, self._make, master, follows=follows
        )

    def _let_go(self) -> None:
        """What a worker must not hold."""
        self._wake.close()
        self._waker.close()
        if self._successor is not None:
            self._successor.channel.close()
        if self._old is not None:
            self._old.close()

    def _fill(self, now: float) -> None:
        """As many workers as there should be."""
        if self._code is not None:
            return
        staying = self._crew.staying()
        for one in staying[: max(0, len(staying) - self._target)]:
            self._dismiss(one)
        if now < self._pace.next:
            return
        for _ in range(self._target - len(staying)):
            try:
                self._crew.spawn(now, self._settings.number)
            except OSError as error:
                log.error("no worker can be made: %s", error.strerror)
                self._pace.ended(now, lived=0)
                return

    def _dismiss(self, one: Worker) -> None:
        one.leaving = True
        alone = self._code is not None and not self._replaced
        one.channel.send(channel.STOP, b"" if alone else channel.REPLACED)

    def _read(self, one: Worker, now: float) -> None:
        for message in self._crew.messages(one, now):
            match message.kind:
                case channel.READY:
                    one.ready = True
                    self._settings.catch_up(one)
                    self._announce()
                case channel.FAILED:
                    one.why = message.data.decode()
                case channel.LEAVING if not one.leaving:
                    self._dismiss(one)
                case channel.RELOADED | channel.REFUSED:
                    self._settings.answered(one, message)
                case channel.RELOAD if self._code is None:
                    self._settings.begin(one)

    def _announce(self) -> None:
        """Once, when all of the first workers are ready."""
        ready = [one for one in self._crew.staying() if one.ready]
        if self._announced or self._code is not None or len(ready) < self._target:
            return
        self._announced = True
        data, admin = (
            one.getsockname()[:2] for one in (self._listeners.data, self._listeners.admin)
        )
        say(listening(data, admin), OUT)
        self._systemd.ready()
        if self._old is not None:
            self._old.send(channel.READY, self._path())
            if self._folder is not None:
                self._folder.is_ours = True

    def _buried(self, pid: int, ended: Ended, now: float) -> None:
        one = ended.worker
        if one is None:
            self._missed(pid, ended.how)
            return
        self._read(one, now)
        self._settings.lost(one)
        if self._code is not None or one.leaving:
            return
        self._pace.ended(now, now - one.born)
        log.error("worker %d ended: %s", pid, one.why or ended.how)
        if not self._announced and not one.ready:
            self._failures += 1
            if one.why is not None or self._failures >= _TRIES:
                say(f"glm-proxy: {one.why or f'no worker can start ({ended.how})'}", ERROR)
                self._stop(now, code=1)

    # --- signals -------------------------------------------------------------------------------

    def _signalled(self, number: signal.Signals, now: float) -> None:
        if number in ENDING:
            self._end(number, now)
        elif self._code is not None:
            log.warning("%s has no effect: this is the end", number.name)
        elif number == signal.SIGHUP:
            self._settings.begin()
        elif number == signal.SIGUSR2:
            self._follow()
        elif number == signal.SIGTTIN:
            self._target += 1
        elif number == signal.SIGTTOU:
            self._target = max(1, self._target - 1)

    def _end(self, number: signal.Signals, now: float) -> None:
        self._told_to_end += 1
        if self._told_to_end == 1:
            self._systemd.stopping()
            say(stopping(self._settings.config.server.drain_timeout), ERROR)
            if self._code is None:
                self._stop(now)
        else:
            # As a shell reports a process that a signal ended.
            self._code = 128 + number
            self._crew.tell(channel.HURRY)
            self._deadline = min(self._deadline, now + _LAST)

    def _stop(self, now: float, *, code: int = 0, replaced: bool = False) -> None:
        self._code, self._replaced = code, replaced
        self._deadline = now + self._settings.config.server.drain_timeout + _SLACK
        for one in self._crew.staying():
            self._dismiss(one)
        if not replaced:
            self._listeners.close()  # else the kernel would go on to take connections for us
            if self._successor is not None:
                self._successor.kill()

    def _expire(self, now: float) -> None:
        if now >= self._deadline:
            self._deadline = _NEVER
            self._crew.kill()
        if self._successor is not None and now - self._successor.born > PATIENCE:
            self._successor.kill()

    # --- a successor ---------------------------------------------------------------------------

    def _follow(self) -> None:
        if self._successor is not None:
            log.warning("a successor is starting already")
        elif os.getpid() == 1:
            log.warning(
                "the first process of a container cannot be followed: replace the container"
            )
        else:
            try:
                self._successor = Successor.start(self._command, self._listeners)
            except OSError as error:
                log.error("no successor can be made: %s", error.strerror)
                return
            self._successor.channel.send(channel.FOLDER, self._path())
            log.info("process %d is starting to follow this one", self._successor.pid)

    def _hear(self, successor: Successor, now: float) -> None:
        try:
            message = successor.channel.receive()
        except EOFError:
            return  # its end is told as that of a process
        if message is None or message.kind != channel.READY:
            return
        log.info("process %d has taken over", successor.pid)
        self._systemd.followed_by(successor.pid)
        if self._folder is not None and message.data == self._path():
            self._folder.is_ours = False
        successor.channel.close()
        self._successor = None
        self._stop(now, replaced=True)

    def _path(self) -> bytes:
        """Of the run folder; empty without one."""
        return b"" if self._folder is None else bytes(self._folder.path)

    def _missed(self, pid: int, how: str) -> None:
        """A process has ended that was none of the workers."""
        if self._successor is None or pid != self._successor.pid:
            return
        log.error("the successor ended before it was ready (%s); this process goes on", how)
        self._successor.channel.close()
        self._successor = None

    # --- waiting -------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until somebody tells something, or it is time to look."""
        now = time.monotonic()
        until = [now + _LOOK, self._deadline]
        if self._code is None and len(self._crew.staying()) < self._target:
            until.append(self._pace.next)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for one in self._crew.all.values():
            poll.register(one.channel.fileno(), select.POLLIN)
        if self._successor is not None:
            poll.register(self._successor.channel.fileno(), select.POLLIN)
        poll.poll(max(0.0, min(until) - now) * 1000)
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass

    @contextmanager
    def _woken(self) -> Iterator[None]:
        """Signals as they come; each ends the waiting."""
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        numbers = (*ENDING, signal.SIGCHLD, *IGNORED)
        before = {one: signal.signal(one, self._caught) for one in numbers}
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, KEPT)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for one, handler in before.items():
                signal.signal(one, handler)
            self._wake.close()
            self._waker.close()

    def _caught(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)
