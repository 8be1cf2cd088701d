"""Lines on real pipes: whole and in order, and never waited for."""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.observe.lines import LineWriter

ROOT = Path(__file__).parents[2]
LINES = [b"%06d %s\n" % (number, b"x" * (number % 200)) for number in range(5_000)]


class Pipe:
    """A pipe that is read only when a test wants it to be."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = open(writer, "wb", buffering=0)  # noqa: SIM115 - closed by the fixture
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)

    def fill(self) -> None:
        """Fills it with empty lines, so that the next write waits."""
        os.set_blocking(self.stream.fileno(), False)
        while self.stream.write(b"\n" * 65536):
            pass
        os.set_blocking(self.stream.fileno(), True)

    def start_reading(self) -> None:
        self._thread.start()

    def lines(self) -> list[bytes]:
        """Everything that was written, once the writing end is closed."""
        self.stream.close()
        self._thread.join(10)
        return [line + b"\n" for line in b"".join(self._read).split(b"\n") if line]

    def _drain(self) -> None:
        while chunk := os.read(self.reader, 65536):
            self._read.append(chunk)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.stream.close()
    os.close(pipe.reader)


def test_lines_arrive_whole_and_in_order(pipe: Pipe) -> None:
    pipe.start_reading()
    writer = LineWriter(pipe.stream)
    for line in LINES:
        writer.write(line)
    assert writer.close(10)
    assert pipe.lines() == LINES
    assert writer.dropped == 0


def test_a_line_does_not_wait_for_the_next_one(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    for line in LINES[:3]:
        writer.write(line)
        readable, _, _ = select.select([pipe.reader], [], [], 10)
        assert readable
        assert os.read(pipe.reader, 65536) == line
    assert writer.close(10)


def test_a_pipe_nobody_reads_never_blocks_and_loses_only_what_is_counted(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.stream, limit=100)
    slowest = 0.0
    for line in LINES:
        started = time.perf_counter()
        writer.write(line)
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 0.5
    assert writer.dropped > 4_000
    assert not writer.close(0.05)  # the thread is stuck in its write
    pipe.start_reading()
    assert writer.close(10)
    arrived = pipe.lines()
    assert len(arrived) + writer.dropped == len(LINES)
    assert arrived == sorted(arrived)
    assert set(arrived) <= set(LINES)


def test_a_full_nonblocking_pipe_is_tried_again(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.stream.fileno(), False)
    writer = LineWriter(pipe.stream)
    for line in LINES:
        writer.write(line)
    assert not writer.close(0.05)
    pipe.start_reading()
    assert writer.close(10)
    assert pipe.lines() == LINES


def test_a_reader_that_left_costs_the_lines_and_nothing_else(pipe: Pipe) -> None:
    reader, writing = os.pipe()
    os.close(reader)
    with open(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream)
        for line in LINES[:50]:
            writer.write(line)
        assert writer.close(10)
    assert writer.dropped == 50


def test_a_line_after_the_end_is_counted_as_lost() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    writer.write(b"one\n")
    assert writer.close(10)
    writer.write(b"two\n")
    assert stream.getvalue() == b"one\n"
    assert writer.dropped == 1
    assert writer.close(10)


class Writes(io.BytesIO):
    """Notes each write; the first waits, so that lines gather behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.go = threading.Event()

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        self.go.wait(10)
        self.sizes.append(len(data))
        return super().write(data)


def test_one_write_holds_whole_lines_and_no_more_than_a_pipe_takes_at_once() -> None:
    stream = Writes()
    writer = LineWriter(stream)
    long = b"y" * (select.PIPE_BUF + 1) + b"\n"
    for line in (*LINES[:200], long, *LINES[200:400]):
        writer.write(line)
    stream.go.set()
    assert writer.close(10)
    assert stream.getvalue() == b"".join((*LINES[:200], long, *LINES[200:400]))
    assert sorted(stream.sizes)[-2:] == [sorted(stream.sizes)[-2], len(long)]
    assert sorted(stream.sizes)[-2] <= select.PIPE_BUF
    assert len(stream.sizes) < 30


class Sparing(io.BytesIO):
    """Takes seven bytes at a time, and every other time none: as a terminal may."""

    calls = 0

    def write(self, data: memoryview, /) -> int | None:  # type: ignore[override]
        self.calls += 1
        return None if self.calls % 2 else super().write(data[:7])


def test_a_line_is_written_to_its_end_however_little_is_taken_at_once() -> None:
    stream = Sparing()
    writer = LineWriter(stream)
    writer.write(b"0123456789abcdef\n")
    assert writer.close(10)
    assert stream.getvalue() == b"0123456789abcdef\n"


class Full(io.BytesIO):
    """Would block until told otherwise."""

    calls = 0
    room = False

    def write(self, data: memoryview, /) -> int | None:  # type: ignore[override]
        self.calls += 1
        return super().write(data) if self.room else None


def test_waiting_for_room_takes_no_processor_time() -> None:
    stream = Full()
    writer = LineWriter(stream)
    writer.write(b"one\n")
    assert not writer.close(0.1)
    assert stream.calls < 50
    stream.room = True
    assert writer.close(10)
    assert stream.getvalue() == b"one\n"


SCRIPT = """
from proxy.observe.lines import LineWriter
writer = LineWriter(open(1, "wb", buffering=0, closefd=False), limit=1000)
for number in range(20_000):
    writer.write(b"x" * 100 + b"\\n")
writer.close(0.1)
"""


def test_a_process_ends_although_its_output_is_stuck() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        try:
            assert process.wait(20) == 0  # nobody has read a byte by now
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""
