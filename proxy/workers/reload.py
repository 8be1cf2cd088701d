"""New settings for all workers, or for none: one tries them before the others are told."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from proxy.config import Config, ConfigError, Problem
from proxy.config.fixed import unchangeable
from proxy.observe.app_log import LOGGER
from proxy.workers import channel
from proxy.workers.activation import Systemd
from proxy.workers.channel import Message
from proxy.workers.crew import Crew, Worker
from proxy.workers.words import ERROR, refused, say

log = logging.getLogger(LOGGER)


class Reload:
    """The settings in use, which the next worker is made with, and the way to others."""

    def __init__(
        self, config: Config, load: Callable[[], Config], crew: Crew, systemd: Systemd
    ) -> None:
        """`load` raises ConfigError."""
        self.config = config
        self.number = 0
        """Counts settings, so that it is known which a worker has."""
        self._load = load
        self._crew = crew
        self._systemd = systemd
        self._trial: Worker | None = None
        self._fresh = config
        self._askers: list[Worker] = []
        self._later: list[Worker] = []
        """Who asked while others were being tried."""
        self._again = False

    def begin(self, asker: Worker | None = None) -> None:
        """Read them, and let a worker try them. `asker` is told what became of it."""
        if self._trial is not None:
            self._again = True
            self._later += [asker] if asker else []
            return
        self._askers += [asker] if asker else []
        self._systemd.reloading()
        try:
            self._fresh = self._load()
        except ConfigError as error:
            self._refuse(error.problems)
            return
        problems = tuple(unchangeable(self.config, self._fresh))
        ready = [one for one in self._crew.staying() if one.ready]
        if problems:
            self._refuse(problems)
        elif ready:
            self._trial = ready[0]
            self._give(ready[0], self._fresh)
        else:
            self._accept()

    def answered(self, worker: Worker, message: Message) -> None:
        """A worker says whether it took the settings it was given."""
        if worker is self._trial:
            self._trial = None
            if message.kind == channel.RELOADED:
                worker.settings = self.number + 1
                self._accept()
            else:
                self._refuse(channel.problems_of(message.data), by=worker)
            self._go_on()
        elif message.kind == channel.REFUSED:
            log.error("worker %d refused the settings of the others; it is replaced", worker.pid)
            worker.leaving = True
            worker.channel.send(channel.STOP, channel.REPLACED)

    def catch_up(self, worker: Worker) -> None:
        """One that was made before the latest settings is ready for them now."""
        if worker.settings < self.number:
            self._give(worker, self.config)

    def lost(self, worker: Worker) -> None:
        """It has ended."""
        self._askers = [one for one in self._askers if one is not worker]
        self._later = [one for one in self._later if one is not worker]
        if worker is self._trial:
            self._trial = None
            self._refuse((Problem("", "the worker that tried them ended"),))
            self._go_on()

    def _give(self, worker: Worker, config: Config) -> None:
        worker.settings = self.number
        if not worker.channel.send(channel.SETTINGS, channel.packed(config)):
            os.kill(worker.pid, signal.SIGKILL)  # it reads nothing, and must not stay as it is

    def _accept(self) -> None:
        self.config = self._fresh
        self.number += 1
        for one in self._crew.staying():
            if one.ready and one.settings < self.number:
                self._give(one, self.config)
        log.info("the settings were read again")
        self._tell(channel.RELOADED, b"")

    def _refuse(self, problems: tuple[Problem, ...], by: Worker | None = None) -> None:
        """`by` has counted it already."""
        self._fresh = self.config
        say(refused(problems), ERROR)
        for one in self._crew.staying():
            if one.ready and one is not by:
                one.channel.send(channel.KEPT)
        self._tell(channel.REFUSED, channel.problems_text(problems))

    def _tell(self, kind: str, data: bytes) -> None:
        self._systemd.ready()
        for one in self._askers:
            one.channel.send(kind, data)
        self._askers = []

    def _go_on(self) -> None:
        if self._again:
            self._again = False
            self._askers, self._later = self._later, []
            self.begin()
