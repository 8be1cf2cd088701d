"""A fault applied to a response body: other events, another shape, a cut. Steps in, steps out.

The order matters and is this: contents, cut after N events, spelling, compression, cut after N
bytes, size of the writes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.simulator.faults import Fault
from proxy.simulator.frames import Step
from proxy.simulator.reply import Reply

COMMENT = b": hold\n\n"
_REPLACED_GENERATION = 97.0
"""Seconds after which the glued-on generation claims to have begun; 70-130 were reported."""


@dataclass(slots=True)
class Shaping:
    """One response body on its way through a fault; `cut` is known when the steps are used up."""

    reply: Reply
    fault: Fault
    cut: bool = field(default=False, init=False)

    def steps(self) -> Iterator[Step]:
        """The steps of the body as they are to be sent; what is about events needs a stream."""
        fault, steps, is_stream = self.fault, self.reply.steps, self.reply.is_stream
        if is_stream:
            steps = self._contents(steps)
        if fault.last_event is not None:
            steps = self._first_events(steps, fault.last_event)
        if fault.comments is not None and is_stream:
            steps = _with_comments(steps, fault.comments)
        if fault.spelling and is_stream:
            steps = _spelled(steps, fault.spelling)
        if fault.gzip is not None:
            steps = _compressed(steps, flush=fault.gzip == "flush")
        if fault.cut_at_byte is not None:
            steps = self._first_bytes(steps, fault.cut_at_byte)
        if fault.events_per_write > 1:
            steps = _joined(steps, fault.events_per_write)
        if fault.write_size is not None:
            steps = _split(steps, fault.write_size, fault.drip)
        return steps

    def _contents(self, steps: Iterator[Step]) -> Iterator[Step]:
        fault = self.fault
        if fault.empty:
            return iter(())
        if fault.no_finish:
            steps = _without_last(steps, 2)
        elif fault.no_done:
            steps = _without_last(steps, 1)
        if fault.error_at_event is not None:
            steps = self._with_error(steps, fault.error_at_event)
        if fault.glue_at_event is not None:
            steps = self._glued(steps, fault.glue_at_event)
        if fault.after_end is not None:
            steps = _followed_by(steps, fault.after_end)
        return steps

    def _with_error(self, steps: Iterator[Step], count: int) -> Iterator[Step]:
        """As first event the error is followed by the end event, as later one by nothing."""
        last = Step(0.0, b"")
        for index, step in enumerate(steps):
            last = step
            if index == count:
                yield Step(step.at, self.reply.error)
                if count > 0:
                    return
            if index < count:
                yield step
        if count == 0 and last.data:
            yield last

    def _glued(self, steps: Iterator[Step], count: int) -> Iterator[Step]:
        for index, step in enumerate(steps):
            if index == count:
                yield Step(step.at, step.data[: len(step.data) // 2])
                yield from (s._replace(at=step.at) for s in self.reply.again(_REPLACED_GENERATION))
                return
            yield step

    def _first_events(self, steps: Iterator[Step], count: int) -> Iterator[Step]:
        for index, step in enumerate(steps):
            if index == count:
                self.cut = True
                return
            yield step

    def _first_bytes(self, steps: Iterator[Step], count: int) -> Iterator[Step]:
        left = count
        for step in steps:
            if len(step.data) > left:
                self.cut = True
                if left:
                    yield Step(step.at, step.data[:left])
                return
            left -= len(step.data)
            yield step


def replayed(raw: bytes, at: float, gap: float) -> Iterator[Step]:
    """Given bytes as a body: one step for each block that ends in a blank line."""
    start = 0
    while start < len(raw):
        end = raw.find(b"\n\n", start)
        end = len(raw) if end < 0 else end + 2
        yield Step(at, raw[start:end])
        start, at = end, at + gap


def _without_last(steps: Iterator[Step], count: int) -> Iterator[Step]:
    held: list[Step] = []
    for step in steps:
        held.append(step)
        if len(held) > count:
            yield held.pop(0)


def _followed_by(steps: Iterator[Step], data: bytes) -> Iterator[Step]:
    at = 0.0
    for step in steps:
        at = step.at
        yield step
    yield Step(at, data)


def _with_comments(steps: Iterator[Step], every: int) -> Iterator[Step]:
    for index, step in enumerate(steps):
        if index % every == 0:
            yield Step(step.at, COMMENT)
        yield step


def _spelled(steps: Iterator[Step], spelling: tuple[str, ...]) -> Iterator[Step]:
    """The same events as other servers write them (WHATWG HTML §9.2 allows all of it)."""
    for index, (at, data) in enumerate(steps):
        if "no_space" in spelling:
            data = data.replace(b"data: ", b"data:").replace(b"event: ", b"event:")
        if "ids" in spelling:
            retry = b"retry: 3000\n\n" if index == 0 else b""
            data = retry + b"id: %d\n" % index + data
        if "crlf" in spelling:
            data = data.replace(b"\n", b"\r\n")
        elif "cr" in spelling:
            data = data.replace(b"\n", b"\r")
        if "bom" in spelling and index == 0:
            data = b"\xef\xbb\xbf" + data
        yield Step(at, data)


def _compressed(steps: Iterator[Step], *, flush: bool) -> Iterator[Step]:
    """gzip (RFC 1952), with a sync flush at every step or with none."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    at = 0.0
    for at, data in steps:
        packed = packer.compress(data) + (packer.flush(zlib.Z_SYNC_FLUSH) if flush else b"")
        if packed:
            yield Step(at, packed)
    yield Step(at, packer.flush())


def _joined(steps: Iterator[Step], count: int) -> Iterator[Step]:
    """`count` steps in one write, when the last of them is due."""
    held: list[Step] = []
    for step in steps:
        held.append(step)
        if len(held) == count:
            yield Step(step.at, b"".join(s.data for s in held))
            held.clear()
    if held:
        yield Step(held[-1].at, b"".join(s.data for s in held))


def _split(steps: Iterator[Step], size: int, drip: float) -> Iterator[Step]:
    """Writes of at most `size` bytes, `drip` seconds apart."""
    earliest = 0.0
    for at, data in steps:
        for start in range(0, len(data), size):
            earliest = max(at, earliest)
            yield Step(earliest, data[start : start + size])
            earliest += drip
