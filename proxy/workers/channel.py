"""What the master and a worker, or two masters, tell each other: whole messages, never waited for.

What goes along with a message is in a file without a name, in memory: it may be of any size, and
a worker that reads nothing holds nobody up.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import select
import socket
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from proxy.config import Config, Problem, Secret

READY: Final = "ready"
"""From a worker or a successor: it accepts connections."""
BEAT: Final = "beat"
"""From a worker: its loop turns."""
FAILED: Final = "failed"
"""From a worker, with the reason: it cannot start."""
LEAVING: Final = "leaving"
"""From a worker: somebody told it to end."""
STOP: Final = "stop"
"""To a worker: let what runs finish; with `REPLACED` when others accept connections meanwhile."""
HURRY: Final = "hurry"
"""To a worker: end what still runs."""
SETTINGS: Final = "settings"
"""To a worker, with the settings; it answers `RELOADED` or, with the reasons, `REFUSED`."""
RELOADED: Final = "reloaded"
REFUSED: Final = "refused"
KEPT: Final = "kept"
"""To a worker: others were to be read and could not be used, so those it has stay."""
RELOAD: Final = "reload"
"""From a worker: read the settings again. It is answered as it answers `SETTINGS`."""
FOLDER: Final = "folder"
"""To a successor, with a path: the run folder, which is its own from `READY` on."""

REPLACED: Final = b"replaced"
_LONGEST: Final = 64


class Message(NamedTuple):
    kind: str
    data: bytes = b""


class Channel:
    """One of the two ends."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), cls(there)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, kind: str, data: bytes = b"") -> bool:
        """False: nobody is there to read it, or whoever is there has read nothing for long."""
        files = []
        if data:
            files.append(os.memfd_create(f"glm-proxy {kind}", os.MFD_CLOEXEC))
            with open(files[0], "wb", closefd=False) as file:
                file.write(data)
        try:
            socket.send_fds(self._end, [kind.encode()], files)
        except OSError:
            return False
        finally:
            for file_number in files:
                os.close(file_number)
        return True

    def receive(self) -> Message | None:
        """The next message, `None` if there is none yet. Raises EOFError: there will be none."""
        try:
            kind, files, _, _ = socket.recv_fds(self._end, _LONGEST, 1)
        except BlockingIOError:
            return None
        except OSError:
            raise EOFError from None
        if not kind:
            raise EOFError
        if not files:
            return Message(kind.decode())
        with open(files[0], "rb") as file:
            file.seek(0)  # the place in it came along
            return Message(kind.decode(), file.read())

    def wait(self, kind: str, within: float = 5.0) -> Message | None:
        """The next message, which must be of this kind; `None` if there is none in time."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.poll(within * 1000)
        try:
            message = self.receive()
        except EOFError:
            return None
        return message if message is not None and message.kind == kind else None

    def close(self) -> None:
        self._end.close()


def problems_text(problems: Iterable[Problem]) -> bytes:
    """What goes along with `REFUSED`. It comes from workers too, so it is only text."""
    return json.dumps([tuple(one) for one in problems]).encode()


def problems_of(text: bytes) -> tuple[Problem, ...]:
    """What `problems_text` made."""
    return tuple(Problem(*one) for one in json.loads(text))


class _Pickler(pickle.Pickler):
    """Copies of a `Secret` show its mask; a worker needs what is behind it."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Secret):
            return Secret, (value.reveal(), value.reference)
        return NotImplemented


def packed(config: Config) -> bytes:
    """Settings with their secrets: from the master to a worker, and never to anybody else."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(config)
    return file.getvalue()


def unpacked(data: bytes) -> Config:
    """What `packed` made of settings."""
    config = pickle.loads(data)
    assert isinstance(config, Config)
    return config
