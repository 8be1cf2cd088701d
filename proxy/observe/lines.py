"""Log lines leave here: handed over by the event loop, written by a thread, never waited for.

A pipe that nobody reads blocks its writer. Here that writer is a thread of its own, the lines wait
in a bounded queue, and those that find it full are dropped and counted.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Protocol

_GATHER = 0.02
"""Seconds in which lines gather before the thread looks again: waking it for each line makes it
contend with the event loop for the interpreter, hundreds of times a second."""
_PAUSE = 0.01
"""Seconds between two tries when the stream is non-blocking and full."""


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond, of `seconds` since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class ByteStream(Protocol):
    """An unbuffered binary stream, such as `open(1, "wb", buffering=0, closefd=False)`.

    Not `sys.stdout.buffer`: the interpreter takes that one's lock when it ends, and aborts when a
    thread stuck in a write holds it.
    """

    def write(self, data: memoryview, /) -> int | None:
        """Writes some of `data`: how many bytes, or `None` when it would block."""


class LineWriter:
    """Writes lines to a stream from a thread of its own, which is started here."""

    def __init__(self, stream: ByteStream, *, limit: int = 10_000) -> None:
        self._stream = stream
        self._limit = limit
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._closed = False
        self._ended = threading.Event()
        self._dropped = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the queue was full, the stream broken, or this closed."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Takes one whole line, its newline included. Never blocks; from any thread."""
        if self._closed or self._lines.qsize() >= self._limit:
            self._drop(1)
        else:
            self._lines.put(line)

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the lines taken to be written; says if they were."""
        if not self._closed:
            self._closed = True
            self._lines.put(None)
            self._ended.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def _drain(self) -> None:
        for batch in self._batches():
            try:
                self._send(memoryview(b"".join(batch)))
            except (OSError, ValueError):  # the reader is gone, or the stream closed
                self._drop(len(batch))

    def _batches(self) -> Iterator[list[bytes]]:
        """Whole lines, as many as wait and a pipe takes without mixing in another process's."""
        batch: list[bytes] = []
        size = 0
        while True:
            if batch and self._lines.empty():
                yield batch
                batch, size = [], 0
                self._ended.wait(_GATHER)
            line = self._lines.get()
            if batch and (line is None or size + len(line) > select.PIPE_BUF):
                yield batch
                batch, size = [], 0
            if line is None:
                return
            batch.append(line)
            size += len(line)

    def _send(self, data: memoryview) -> None:
        while data:
            written = self._stream.write(data)
            if written is None:
                time.sleep(_PAUSE)
            else:
                data = data[written:]
