"""Another master, of whatever code and settings are on the disk now, that takes over our sockets.

It gets them as systemd would hand them over, with one more on which it says that it is ready. The
queue of connections that wait to be accepted belongs to the sockets, so none of them is lost.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from proxy.net.listen import Listeners
from proxy.workers import activation
from proxy.workers.channel import Channel

PATIENCE: Final = 60.0
"""Seconds for it to become ready."""
_ABOVE: Final = 64
"""Where the sockets are while the numbers they get are made free."""


@dataclass(frozen=True)
class Command:
    """How this program was started."""

    words: list[str]
    environ: Mapping[str, str]

    @classmethod
    def own(cls, environ: Mapping[str, str]) -> Command:
        """A script is started as such again: its first line may name another Python by then."""
        python, *words = sys.orig_argv
        if words and not words[0].startswith("-") and os.access(words[0], os.X_OK):
            return cls(words, environ)
        return cls([sys.executable or python, *words], environ)


@dataclass
class Successor:
    """It, while it is not ready."""

    pid: int
    channel: Channel
    born: float

    @classmethod
    def start(cls, command: Command, listeners: Listeners) -> Successor:
        """Raises OSError when the system has no room for another process."""
        here, there = Channel.pair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        try:
            pid = os.fork()
            if pid == 0:
                _become(command, (listeners.data.fileno(), listeners.admin.fileno()), there)
        finally:
            there.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(pid, here, time.monotonic())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _become(command: Command, sockets: tuple[int, int], old: Channel) -> NoReturn:
    """In the new process."""
    try:
        signal.set_wakeup_fd(-1)
        # What is ignored stays so in another program, what is caught does not.
        high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for one in (*sockets, old.fileno())]
        for number, one in enumerate(high, activation.FIRST):
            os.dup2(one, number, inheritable=True)
        environ = activation.environment(command.environ, os.getpid(), activation.NAMES)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(command.words[0], command.words, environ)
    except OSError as error:
        os.write(2, f"glm-proxy: cannot start {command.words[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(1)
