"""The open streams of one connection: how each begins, goes on and ends (RFC 9113 §5, §6.9, §8.1).

Windows: a stream's window is given back as long as it is not paused, so that it never holds more
than its window; the connection's is given back on receipt (`engine`), so that a slow reader
stalls only itself.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.errors import Refused, UpstreamError, UpstreamProtocolError
from proxy.net.h2 import frames
from proxy.net.h2.budget import Budget
from proxy.net.h2.fields import Codec, Fields
from proxy.net.h2.frames import ErrorCode, Violation
from proxy.net.h2.state import H2Settings, StreamState
from proxy.net.h2.uploads import Uploads

_STREAMS_BEFORE_SETTINGS = 100
"""RFC 9113 §6.5.2 advises peers to allow no fewer."""
_RECENT = 256
"""Ids of streams we reset that are remembered; what was still in flight to them is no error."""


class Streams:
    """What the engine and its owner share. Bytes for the peer gather in `out`."""

    def __init__(self, settings: H2Settings, budget: Budget) -> None:
        self.out: list[bytes] = []
        self.changed = False  # capacity or state, since the owner last looked
        self.draining = False  # no new streams; open ones finish
        self.closed = False
        self.open: dict[int, StreamState] = {}
        self.bodies: dict[int, StreamState] = {}  # open and past their head: where DATA may go
        self.requests = 0  # streams ever opened
        self.peer_limit = _STREAMS_BEFORE_SETTINGS  # streams the peer lets us have at once
        self.codec = Codec(settings.header_list_limit)
        self.uploads = Uploads(self.out, budget)
        self._budget = budget
        self._window = settings.initial_window
        self._next_id = 1
        self._reset: dict[int, None] = {}  # ids, oldest first
        self._forgotten = 0  # the highest id that fell out of it

    @property
    def capacity(self) -> int:
        """Streams that may be opened now."""
        if self.draining or self.closed:
            return 0
        return max(0, self.peer_limit - len(self.open))

    # --- what the owner does ---------------------------------------------------------------------

    def request(self, stream: StreamState, headers: Fields, body: bytes, *, end: bool) -> None:
        """Open a stream; its body follows as `uploads` may. Raises `Refused`."""
        if self.capacity <= 0:
            raise Refused("the upstream connection takes no further stream")
        stream.id = self._next_id
        stream.window = self._window
        stream.send_window = self.uploads.initial_window
        stream.bodyless = (b":method", b"HEAD") in headers
        stream.ends = end
        stream.finished = end and not body
        block = self.codec.encode(headers)
        self.out.append(frames.headers(stream.id, block, end=stream.finished))
        if body:
            self.uploads.add(stream, body, end=end)
        self.open[stream.id] = stream
        self.requests += 1
        self._next_id += 2
        self.draining = self.draining or self._next_id > frames.MAX_STREAM_ID
        self._budget.request_sent()

    def cancel(self, stream: StreamState) -> None:
        """RST_STREAM(CANCEL); the sink hears nothing more."""
        if stream.sink is not None:
            self._send_reset(stream.id, ErrorCode.CANCEL)
            self._forget(stream)

    def resume(self, stream: StreamState) -> None:
        """The sink reads again: give back what the window lacks."""
        if stream.sink is not None:
            stream.paused = False
            self.give_back(stream)

    def fail_all(self, reason: Callable[[StreamState], UpstreamError]) -> None:
        """Nothing more can come: every open stream ends with its error."""
        self.closed = True
        self.changed = True
        for stream in list(self.open.values()):
            self.fail(stream, reason(stream))

    # --- what frames do to a stream --------------------------------------------------------------

    def deliver(self, stream: StreamState) -> None:
        """Tell the sink what the read at hand brought, and give its window back."""
        chunks = stream.chunks
        if not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        if stream.sink is None:  # cancelled earlier in this read
            return
        if stream.remaining is not None:
            stream.remaining -= len(data)
            if stream.remaining < 0:
                self.reject(stream, "more DATA than content-length says")
                return
        stream.sink.on_data(data)
        if stream.window <= self._window >> 1:
            self.give_back(stream)

    def give_back(self, stream: StreamState) -> None:
        """When half the window or more was used: one WINDOW_UPDATE for all of it."""
        used = self._window - stream.window
        if used >= stream.window and not stream.paused and stream.sink is not None:
            self.out.append(frames.window_update(stream.id, used))
            stream.window = self._window

    def end(self, stream: StreamState, trailers: Fields) -> None:
        """END_STREAM came."""
        stream.paused = True
        self.deliver(stream)
        sink = stream.sink
        if sink is None:
            return
        if stream.remaining:
            self.reject(stream, "less DATA than content-length says")
            return
        if not stream.finished:  # the answer is whole, so the rest of our body is of no use (§8.1)
            self._send_reset(stream.id, ErrorCode.NO_ERROR)
        self._forget(stream)
        sink.on_end(trailers)

    def reject(
        self, stream: StreamState, message: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR
    ) -> None:
        """A stream error of the peer's (§5.4.2): reset it; the connection lives on."""
        error = UpstreamProtocolError(f"the upstream broke HTTP: {message}")
        if self.fail(stream, error):
            self._send_reset(stream.id, code)

    def fail(self, stream: StreamState, error: UpstreamError) -> bool:
        """The stream ends with an error, behind what came before it. False if it had ended."""
        self.deliver(stream)
        sink = stream.sink
        if sink is None:
            return False
        stream.error = error
        self._forget(stream)
        sink.on_error(error)
        return True

    def stray(self, stream_id: int) -> None:
        """DATA or HEADERS for a stream that takes none. Raises `Violation` for an idle one."""
        self.check_opened(stream_id)
        stream = self.open.get(stream_id)
        if stream is not None:
            self.reject(stream, "DATA before the response head")
        elif stream_id not in self._reset and stream_id > self._forgotten:
            self._budget.charge("frames on closed streams")
            self.out.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def check_opened(self, stream_id: int) -> None:
        """Raises `Violation` for an id that we never used."""
        if not stream_id & 1 or stream_id >= self._next_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"a frame on idle stream {stream_id}")

    def _forget(self, stream: StreamState) -> None:
        del self.open[stream.id]
        self.bodies.pop(stream.id, None)
        stream.sink = None
        stream.body = b""
        stream.wake()
        self.changed = True

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self.out.append(frames.rst_stream(stream_id, code))
        self._reset[stream_id] = None
        if len(self._reset) > _RECENT:
            oldest = next(iter(self._reset))
            del self._reset[oldest]
            self._forgotten = max(self._forgotten, oldest)
