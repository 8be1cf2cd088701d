"""The HTTP/2 client's state machine (RFC 9113): bytes in, calls on sinks and bytes out.

`receive` is given what a socket read. Responses are told to the streams' sinks there and then;
what the peer must be sent gathers in `out`. After any call the owner looks at three things:
`streams.out` and `streams.uploads`, to write; `streams.changed`, to tell of; `streams.closed`,
to hang up.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from proxy.errors import Refused, UpstreamProtocolError, UpstreamReset
from proxy.net.h2 import frames
from proxy.net.h2.budget import Budget
from proxy.net.h2.fields import Fields, Malformed, check_trailers, content_length, read_head
from proxy.net.h2.frames import HEADER_SIZE, ErrorCode, Violation
from proxy.net.h2.state import H2Settings, StreamState
from proxy.net.h2.streams import Streams

_unpack = frames.HEADER.unpack_from
_ID = frames.MAX_STREAM_ID
_COUNTER = Struct(">Q")
_NOWHERE: dict[int, StreamState] = {}


class Engine:
    """One connection's protocol state. `clock` answers seconds."""

    def __init__(self, settings: H2Settings, clock: Callable[[], float]) -> None:
        self.rtt: float | None = None  # seconds; of the last PING, at first of our SETTINGS
        self.settings_seen = False
        self.farewell = ""  # what the peer's GOAWAY said
        self._clock = clock
        self._started = clock()
        self._settings = settings
        self._budget = Budget(clock)
        self.streams = Streams(settings, self._budget)
        self._out = self.streams.out
        self._touched: list[StreamState] = []  # got DATA in the read at hand
        self._tail = b""  # of a frame that is not whole yet
        self._longest = settings.max_frame_size << 8 | 0xFF  # as a header's first word
        self._grant = max(settings.connection_window, frames.DEFAULT_WINDOW)
        self._window = self._grant  # bytes the peer may still send on all streams
        self._block: list[bytes] | None = None  # header block that waits for CONTINUATION
        self._block_size = 0
        self._block_of = (0, False)  # its stream, and whether the stream ends with it
        self._pings = 0
        self._pinged = 0.0

    def start(self) -> None:
        """The client preface (§3.4), with the whole connection window behind it."""
        self._started = self._clock()
        settings = self._settings
        values = [
            (frames.ENABLE_PUSH, 0),
            (frames.INITIAL_WINDOW_SIZE, settings.initial_window),
            (frames.MAX_FRAME_SIZE, settings.max_frame_size),
            (frames.MAX_HEADER_LIST_SIZE, settings.header_list_limit),
        ]
        self._out += (frames.PREFACE, frames.settings(values))
        if self._grant > frames.DEFAULT_WINDOW:
            self._out.append(frames.window_update(0, self._grant - frames.DEFAULT_WINDOW))

    def ping(self) -> None:
        """Ask for a sign of life; its answer sets `rtt`."""
        self._pings += 1
        self._pinged = self._clock()
        self._out.append(frames.ping(_COUNTER.pack(self._pings)))

    def close(self) -> None:
        """Say goodbye; for when no stream is open."""
        self._out.append(frames.goaway(0, ErrorCode.NO_ERROR))
        self.streams.closed = self.streams.changed = True

    def receive(self, data: bytes) -> None:
        """What a socket read. Never raises: a peer's error ends the connection with a GOAWAY."""
        if self._tail:
            data = self._tail + data
        try:
            self._tail = self._read(data)
        except Violation as violation:
            text = f"the upstream broke HTTP/2: {violation.message} ({violation.code.name})"
            self.streams.fail_all(lambda _: UpstreamProtocolError(text))
            debug = violation.message.encode("ascii", "replace")[:100]
            self._out.append(frames.goaway(0, violation.code, debug))

    def _read(self, data: bytes) -> bytes:
        """All whole frames; what remains is returned. Plain DATA is taken right here."""
        at, size = 0, len(data)
        longest, touched = self._longest, self._touched
        window = self._window
        bodies = self.streams.bodies if self._block is None else _NOWHERE
        while size - at >= HEADER_SIZE:
            word, flags, stream_id = _unpack(data, at)
            start = at + HEADER_SIZE
            stop = start + (word >> 8)
            if word > longest:
                raise self._too_long(data, word >> 8)
            if stop > size:
                break
            at = stop
            # Unflagged, not empty DATA (type 0) of a stream past its head: nearly all frames.
            if not flags and not word & 0xFF and word and (stream := bodies.get(stream_id)):
                length = word >> 8
                window -= length
                left = stream.window - length
                if left < 0 or window < 0:
                    raise _overrun()
                stream.window = left
                if not stream.chunks:
                    touched.append(stream)
                stream.chunks.append(data[start:stop])
                continue
            self._window = window
            self._read_frame(word & 0xFF, flags, stream_id & _ID, data[start:stop])
            window = self._window
            bodies = self.streams.bodies if self._block is None else _NOWHERE
        for stream in touched:
            self.streams.deliver(stream)
        touched.clear()
        if window <= self._grant >> 1:
            self._out.append(frames.window_update(0, self._grant - window))
            window = self._grant
        self._window = window
        return data[at:]

    def _read_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.settings_seen and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and kind != frames.CONTINUATION:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        match kind:
            case frames.DATA:
                self._on_data(flags, stream_id, payload)
            case frames.HEADERS:
                self._on_headers(flags, stream_id, payload)
            case frames.CONTINUATION:
                self._on_continuation(flags, stream_id, payload)
            case frames.RST_STREAM:
                self._on_reset(stream_id, payload)
            case frames.WINDOW_UPDATE:
                self._on_window_update(stream_id, payload)
            case frames.PRIORITY:
                self._on_priority(stream_id, payload)
            case frames.PUSH_PROMISE:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which we disabled")
            case frames.SETTINGS | frames.PING | frames.GOAWAY:
                self._on_connection_frame(kind, flags, stream_id, payload)
            case _:
                self._budget.charge("ignored frames")

    # --- frames of a stream ----------------------------------------------------------------------

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._window -= len(payload)  # padding and strays count as well (§6.1)
        if self._window < 0:
            raise _overrun()
        data = frames.read_padded(payload) if flags & frames.PADDED else payload
        stream = self.streams.bodies.get(stream_id)
        if stream is None:
            self.streams.stray(stream_id)
            return
        stream.window -= len(payload)
        if stream.window < 0:
            raise _overrun()
        if data:
            if not stream.chunks:
                self._touched.append(stream)
            stream.chunks.append(data)
        if flags & frames.END_STREAM:
            self.streams.end(stream, [])
        elif not data:
            self._budget.charge("empty DATA")
            self.streams.give_back(stream)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = frames.read_padded(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without their priority")
            payload = payload[5:]
        ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, payload, ends=ends)
        else:
            self._block, self._block_size = [payload], len(payload)
            self._block_of = (stream_id, ends)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        owner, ends = self._block_of
        if self._block is None or stream_id != owner:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        self._budget.charge("CONTINUATION")
        self._block.append(payload)
        self._block_size += len(payload)
        if self._block_size > self._settings.header_list_limit:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header block over the limit")
        if flags & frames.END_HEADERS:
            block, self._block = b"".join(self._block), None
            self._on_block(stream_id, block, ends=ends)

    def _on_block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        # Decoded whatever becomes of it: the compression state is the connection's.
        fields = self.streams.codec.decode(block)
        stream = self.streams.open.get(stream_id)
        if stream is None:
            self.streams.stray(stream_id)
            return
        try:
            if stream_id not in self.streams.bodies:
                self._on_head(stream, fields, ends=ends)
            elif not ends:
                raise Malformed("a second response head")
            else:
                check_trailers(fields)
                self.streams.end(stream, fields)
        except Malformed as error:
            self.streams.reject(stream, str(error))

    def _on_head(self, stream: StreamState, fields: Fields, *, ends: bool) -> None:
        head = read_head(fields)
        if head.status < 200:
            self._budget.charge("interim responses")
            if ends or head.status == 101:  # §8.6: no upgrade in HTTP/2
                raise Malformed(f"interim response {head.status}")
            return
        length = content_length(head.headers)
        stream.remaining = 0 if stream.bodyless or head.status in (204, 304) else length
        self.streams.bodies[stream.id] = stream
        if stream.sink is not None:
            stream.sink.on_head(head)
        if ends:
            self.streams.end(stream, [])

    def _on_reset(self, stream_id: int, payload: bytes) -> None:
        code = frames.read_number(payload, "RST_STREAM")
        self.streams.check_opened(stream_id)
        stream = self.streams.open.get(stream_id)
        if stream is None:
            self._budget.charge("RST_STREAM")
        elif code == ErrorCode.REFUSED_STREAM and stream_id not in self.streams.bodies:
            self.streams.fail(stream, Refused("the upstream refused the stream (REFUSED_STREAM)"))
        else:
            text = f"the upstream reset the stream ({frames.code_name(code)})"
            self.streams.fail(stream, UpstreamReset(text))

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        increment = frames.read_number(payload, "WINDOW_UPDATE") & _ID
        self._budget.charge("WINDOW_UPDATE")
        uploads = self.streams.uploads
        if not stream_id:
            uploads.grant_connection(increment)
            return
        self.streams.check_opened(stream_id)
        stream = self.streams.open.get(stream_id)
        if stream is None:
            return
        if not increment:
            self.streams.reject(stream, "WINDOW_UPDATE of 0")
        elif not uploads.grant(stream, increment):
            text = "stream window over 2^31-1"
            self.streams.reject(stream, text, ErrorCode.FLOW_CONTROL_ERROR)

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        self._budget.charge("ignored frames")
        if len(payload) == 5:
            return
        text = f"PRIORITY of {len(payload)} bytes"
        stream = self.streams.open.get(stream_id)
        if stream is None:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, text)
        self.streams.reject(stream, text, ErrorCode.FRAME_SIZE_ERROR)

    # --- frames of the connection ----------------------------------------------------------------

    def _on_connection_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a connection's frame on a stream")
        if kind == frames.PING:
            self._on_ping(flags, payload)
        elif kind == frames.GOAWAY:
            self._on_goaway(payload)
        elif flags & frames.ACK:
            self._on_settings_ack(payload)
        else:
            self._on_settings(payload)

    def _on_settings(self, payload: bytes) -> None:
        self._budget.charge("SETTINGS")
        streams = self.streams
        if not self.settings_seen:
            self.settings_seen = True
            streams.peer_limit = frames.MAX_STREAM_ID  # §6.5.2: no limit unless given
        for identifier, value in frames.read_settings(payload):
            if identifier == frames.MAX_CONCURRENT_STREAMS:
                streams.peer_limit = value
            elif identifier == frames.INITIAL_WINDOW_SIZE:
                streams.uploads.set_initial_window(value, streams.open.values())
        self._out.append(frames.SETTINGS_ACK)
        streams.changed = True

    def _on_settings_ack(self, payload: bytes) -> None:
        self._budget.charge("SETTINGS")
        if payload:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
        if self.rtt is None:
            self.rtt = self._clock() - self._started

    def _on_ping(self, flags: int, payload: bytes) -> None:
        self._budget.charge("PING")
        if len(payload) != 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        if not flags & frames.ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif payload == _COUNTER.pack(self._pings):
            self.rtt = self._clock() - self._pinged

    def _on_goaway(self, payload: bytes) -> None:
        self._budget.charge("ignored frames")
        last, code, debug = frames.read_goaway(payload)
        streams = self.streams
        streams.draining = streams.changed = True
        reason = debug[:100].decode("ascii", "backslashreplace")
        self.farewell = f"GOAWAY {frames.code_name(code)} {reason}".rstrip()
        for stream in [s for s in streams.open.values() if s.id > last]:
            # A peer that has answered what it says it never saw is not believed.
            error = UpstreamReset if stream.id in streams.bodies else Refused
            streams.fail(stream, error(f"the upstream is going away ({self.farewell})"))

    def _too_long(self, data: bytes, length: int) -> Violation:
        if not self.settings_seen and data.startswith(b"HTTP/1"):
            return Violation(ErrorCode.PROTOCOL_ERROR, "the peer speaks HTTP/1")
        return Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")


def _overrun() -> Violation:
    return Violation(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window")
