"""What one read of small DATA frames costs, from `data_received` to the sink, without sockets.

    python tests/bench/micro_h2.py

Each row is the fastest of several rounds, in microseconds. The second table is a least-squares fit
over reads of 1 to 40 frames: what a read costs, and what each frame in it adds.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hpack import Encoder

from proxy.errors import UpstreamError
from proxy.net.h2 import frames
from proxy.net.h2.connection import Connection, H2Settings, Head

PAYLOAD = 190
READS = 20_000
ROUNDS = 7
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"open.bigmodel.cn"),
    (b":path", b"/api/paas/v4/chat/completions"),
    (b"authorization", b"Bearer " + b"0123456789abcdef" * 3),
    (b"content-type", b"application/json"),
    (b"accept", b"text/event-stream"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"OpenAI/Python 1.2.3"),
    (b"x-request-id", b"0123456789abcdef0123456789abcdef"),
]
RESPONSE = [
    (b":status", b"200"),
    (b"server", b"nginx"),
    (b"date", b"Tue, 01 Jan 2030 00:00:00 GMT"),
    (b"content-type", b"text/event-stream;charset=UTF-8"),
    (b"vary", b"Origin"),
    (b"x-log-id", b"20300101000000abcdef"),
]


class Counting:
    """A sink that does next to nothing."""

    def __init__(self) -> None:
        self.bytes = 0

    def on_head(self, head: Head) -> None: ...
    def on_data(self, data: bytes) -> None:
        self.bytes += len(data)

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None: ...
    def on_error(self, error: UpstreamError) -> None: ...


class Nowhere(asyncio.Transport):
    """A transport that drops what it is given."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...
    def abort(self) -> None: ...


class Bench:
    """A connection that has had SETTINGS, and the peer's compression state."""

    def __init__(self) -> None:
        self.connection = Connection(H2Settings(ping_interval=0), lambda _: None)
        self.connection.connection_made(Nowhere())
        self.connection.data_received(frames.settings([(frames.MAX_CONCURRENT_STREAMS, 1000)]))
        self.hpack = Encoder()

    def open(self, count: int) -> list[int]:
        """Streams with their heads there; their ids."""
        ids = []
        for _ in range(count):
            stream = self.connection.request(REQUEST, Counting(), b"{}")
            block = self.hpack.encode(RESPONSE)
            self.connection.data_received(frames.headers(stream.id, block, end=False))
            ids.append(stream.id)
        return ids

    def read_cost(self, streams: int, per_read: int) -> float:
        """Microseconds of one `data_received` with `per_read` frames, over `streams` in turn."""
        ids = self.open(streams)
        payload = b"x" * PAYLOAD
        one = [frames.data(i, payload, end=False) for i in ids]
        reads = [
            b"".join(one[(start + n) % streams] for n in range(per_read))
            for start in range(0, streams * per_read, per_read)
        ]
        times = max(1, READS // per_read // len(reads)) * 2
        return best_of(lambda: self._feed(reads, times)) / (times * len(reads)) * 1e6

    def _feed(self, reads: list[bytes], times: int) -> None:
        receive = self.connection.data_received
        for _ in range(times):
            for read in reads:
                receive(read)

    def request_cost(self, count: int = 2_000) -> float:
        """Microseconds of a whole request: HEADERS out, head, one DATA, END_STREAM in."""

        def run() -> None:
            for _ in range(count):
                stream = self.connection.request(REQUEST, Counting(), b"{}")
                block = self.hpack.encode(RESPONSE)
                self.connection.data_received(frames.headers(stream.id, block, end=False))
                self.connection.data_received(frames.data(stream.id, b"x" * PAYLOAD, end=True))

        def encode_only() -> None:
            for _ in range(count):
                self.hpack.encode(RESPONSE)

        return (best_of(run) - best_of(encode_only)) / count * 1e6


def best_of(run: object) -> float:
    assert callable(run)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def fit(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares: (at zero frames, per frame)."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points)
    slope /= sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - slope * mean_x, slope


async def main() -> None:
    gc.disable()  # as noise; the path makes no cycles
    counts = (1, 2, 5, 10, 20, 40)
    print(f"{'streams':>8} " + " ".join(f"{n:>3} frames" for n in counts) + "   us per read")
    fits = []
    for streams in (1, 50):
        points = [(n, Bench().read_cost(streams, n)) for n in counts]
        print(f"{streams:>8} " + " ".join(f"{cost:>10.2f}" for _, cost in points))
        fits.append((streams, *fit(points)))
    print(f"\n{'streams':>8} {'a read':>8} {'a frame':>8}   us")
    for streams, read, each in fits:
        print(f"{streams:>8} {read:>8.2f} {each:>8.2f}")
    print(f"\na whole request, without the peer's part: {Bench().request_cost():.1f} us")


if __name__ == "__main__":
    asyncio.run(main())
