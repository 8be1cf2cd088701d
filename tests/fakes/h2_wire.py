"""An `Engine` fed by hand: what a server would send goes in, frames and sinks' tales come out."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, SettingsFrame

from proxy.net.h2.engine import Engine
from proxy.net.h2.state import H2Settings, StreamState
from tests.fakes.h2_peer import PREFACE
from tests.fakes.h2_sinks import GET, OK, Headers, Recorder

GREETING = SettingsFrame(0).serialize()


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """One engine, greeted unless told otherwise, and the server's compression state."""

    def __init__(self, settings: H2Settings | None = None, *, greet: bool = True) -> None:
        self.clock = Clock()
        self.engine = Engine(settings or H2Settings(), self.clock)
        self.streams = self.engine.streams
        self.hpack = Encoder()
        self.engine.start()
        if greet:
            self.feed(GREETING)
            self.sent()

    def request(
        self, headers: Headers = GET, body: bytes = b"", *, end: bool = True
    ) -> tuple[StreamState, Recorder]:
        recorder = Recorder()
        stream = StreamState(recorder)
        self.streams.request(stream, headers, body, end=end)
        return stream, recorder

    def answered(self, headers: Headers = OK) -> tuple[StreamState, Recorder]:
        """A request whose response head has come."""
        stream, recorder = self.request()
        self.feed(self.block(stream.id, headers))
        self.sent()
        return stream, recorder

    def feed(self, *parts: Frame | bytes) -> None:
        """All in one read."""
        self.engine.receive(b"".join(p if isinstance(p, bytes) else p.serialize() for p in parts))

    def sent(self) -> list[Frame]:
        """Frames that would have been written since last asked; uploads as far as they go."""
        self.streams.uploads.pump(2**31)
        data = b"".join(self.streams.out).removeprefix(PREFACE)
        self.streams.out.clear()
        return parse_frames(data)

    def block(self, stream_id: int, headers: Headers = OK, *flags: str) -> HeadersFrame:
        return HeadersFrame(stream_id, self.hpack.encode(headers), flags=["END_HEADERS", *flags])

    def goaway(self) -> GoAwayFrame | None:
        """The GOAWAY among what was sent since last asked."""
        return next((f for f in self.sent() if isinstance(f, GoAwayFrame)), None)


def parse_frames(data: bytes) -> list[Frame]:
    """Whole frames; raises when something is left over or is none of RFC 9113's."""
    found = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]), strict=True)
        assert len(data) >= 9 + length
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append(frame)
        data = data[9 + length :]
    return found


def data_of(frames: Iterable[Frame], stream_id: int) -> bytes:
    """The DATA of one stream among frames."""
    return b"".join(f.data for f in frames if isinstance(f, DataFrame) and f.stream_id == stream_id)
