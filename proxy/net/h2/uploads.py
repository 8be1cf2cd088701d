"""Request bodies: what may go now under the peer's windows, a frame of each stream in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from proxy.net.h2 import frames
from proxy.net.h2.budget import Budget
from proxy.net.h2.frames import DEFAULT_WINDOW, MAX_WINDOW, ErrorCode, Violation
from proxy.net.h2.state import StreamState


class Uploads:
    """The sending half of flow control (RFC 9113 §5.2, §6.9). Frames go to `out`."""

    def __init__(self, out: list[bytes], budget: Budget) -> None:
        self._out = out
        self._budget = budget
        self.window = DEFAULT_WINDOW  # the connection's: bytes we may still send
        self.initial_window = DEFAULT_WINDOW  # what the peer grants each new stream
        self.queue: deque[StreamState] = deque()  # those with bytes and a window to send them in

    def add(self, stream: StreamState, body: bytes, *, end: bool) -> None:
        """Send this next; what was added before must have gone. END_STREAM alone goes at once."""
        stream.ends = end
        if body:
            stream.body = body
            stream.sent = 0
            self._enqueue(stream)
        elif end:
            stream.finished = True
            self._out.append(frames.data(stream.id, b"", end=True))

    def pump(self, limit: int) -> bool:
        """Put about `limit` bytes into `out` at most; true when more could go now."""
        while self.queue and self.window > 0:
            if limit <= 0:
                return True
            stream = self.queue.popleft()
            stream.queued = False
            if stream.sink is not None:
                limit -= self._send_frame(stream)
        return False

    def grant_connection(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection. Raises `Violation`."""
        self.window += increment
        if not increment:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        if self.window > MAX_WINDOW:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "connection window over 2^31-1")

    def grant(self, stream: StreamState, increment: int) -> bool:
        """WINDOW_UPDATE of one stream; false when its window passes 2^31-1."""
        stream.send_window += increment
        if stream.body:
            self._enqueue(stream)
        return stream.send_window <= MAX_WINDOW

    def set_initial_window(self, value: int, streams: Iterable[StreamState]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE: open streams move with it (§6.9.2). Raises `Violation`."""
        change = value - self.initial_window
        self.initial_window = value
        for stream in streams:
            if not self.grant(stream, change):
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "stream window over 2^31-1")

    def _enqueue(self, stream: StreamState) -> None:
        if stream.send_window > 0 and not stream.queued:
            stream.queued = True
            self.queue.append(stream)

    def _send_frame(self, stream: StreamState) -> int:
        room = min(frames.SENT_FRAME_SIZE, self.window, stream.send_window)
        if room <= 0:  # SETTINGS shrank the window since it was queued
            return 0
        chunk = stream.body[stream.sent : stream.sent + room]
        stream.sent += len(chunk)
        stream.send_window -= len(chunk)
        self.window -= len(chunk)
        done = stream.sent == len(stream.body)
        stream.finished = done and stream.ends
        self._out.append(frames.data(stream.id, chunk, end=stream.finished))
        self._budget.data_sent()
        if done:
            stream.body = b""
            stream.wake()
        else:
            self._enqueue(stream)
        return len(chunk)
