"""Faults as they change a body: events in, writes out."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.simulator import Fault
from proxy.simulator.frames import Step
from proxy.simulator.reply import streamed
from proxy.simulator.shape import COMMENT, Shaping, replayed

EVENTS = [b"data: a\n\n", b"data: b\n\n", b"data: c\n\n", b"data: [DONE]\n\n"]
WHOLE = b"".join(EVENTS)
ERROR = b"data: error\n\n"


def steps() -> Iterator[Step]:
    return (Step(float(at), data) for at, data in enumerate(EVENTS))


def shaped(**fault: Any) -> tuple[list[Step], bool]:
    reply = streamed(steps(), head_at=0.0)
    reply.error = ERROR
    reply.again = lambda later: iter((Step(9, b"data: %d\n\n" % later),))
    shaping = Shaping(reply, Fault(**fault))
    return list(shaping.steps()), shaping.cut


def sent(**fault: Any) -> bytes:
    return b"".join(step.data for step in shaped(**fault)[0])


def test_without_a_fault_nothing_changes() -> None:
    assert shaped() == (list(steps()), False)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"empty": True}, b""),
        ({"no_done": True}, b"data: a\n\ndata: b\n\ndata: c\n\n"),
        ({"no_finish": True}, b"data: a\n\ndata: b\n\n"),
        ({"error_at_event": 0}, ERROR + b"data: [DONE]\n\n"),
        ({"error_at_event": 2}, b"data: a\n\ndata: b\n\n" + ERROR),
        ({"glue_at_event": 1}, b"data: a\n\ndatadata: 97\n\n"),
        ({"after_end": b"more"}, WHOLE + b"more"),
        ({"comments": 2}, COMMENT + b"".join(EVENTS[:2]) + COMMENT + b"".join(EVENTS[2:])),
        ({"spelling": "crlf"}, WHOLE.replace(b"\n", b"\r\n")),
        ({"spelling": "cr"}, WHOLE.replace(b"\n", b"\r")),
        ({"spelling": "no_space"}, WHOLE.replace(b": ", b":")),
        ({"spelling": "bom"}, b"\xef\xbb\xbf" + WHOLE),
        (
            {"spelling": "ids", "cut_at_event": 2},
            b"retry: 3000\n\nid: 0\ndata: a\n\nid: 1\ndata: b\n\n",
        ),
        ({"cut_at_event": 0}, b""),
        ({"cut_at_event": 2}, b"data: a\n\ndata: b\n\n"),
        ({"stall_at_event": 1}, b"data: a\n\n"),
    ],
)
def test_a_fault_changes_what_is_sent(fault: dict[str, Any], expected: bytes) -> None:
    assert sent(**fault) == expected


def test_a_cut_is_known_to_be_one() -> None:
    assert shaped(cut_at_event=3)[1]
    assert not shaped(cut_at_event=4)[1]
    assert shaped(cut_at_byte=len(WHOLE) - 1)[1]
    assert not shaped(cut_at_byte=len(WHOLE))[1]


def test_a_cut_can_be_at_any_byte() -> None:
    for count in range(len(WHOLE)):
        assert sent(cut_at_byte=count) == WHOLE[:count]


def test_events_of_one_write_wait_for_the_last_of_them() -> None:
    joined, _ = shaped(events_per_write=3)
    assert joined == [Step(2.0, b"".join(EVENTS[:3])), Step(3.0, EVENTS[3])]


def test_byte_by_byte_is_every_byte_in_its_own_write() -> None:
    single, _ = shaped(write_size=1)
    assert [len(step.data) for step in single] == [1] * len(WHOLE)
    assert b"".join(step.data for step in single) == WHOLE


def test_a_drip_keeps_its_distance_but_never_runs_ahead() -> None:
    dripped, _ = shaped(write_size=9, drip=0.4)
    assert [step.at for step in dripped] == [0.0, 1.0, 2.0, 3.0, 3.4]


def test_compressed_and_flushed_each_event_can_be_read_when_it_is_sent() -> None:
    packed, _ = shaped(gzip="flush")
    reader = zlib.decompressobj(wbits=31)
    assert [reader.decompress(step.data) for step in packed[:4]] == EVENTS
    assert gzip.decompress(sent(gzip="flush")) == WHOLE


def test_compressed_and_held_nothing_can_be_read_before_the_end() -> None:
    packed, _ = shaped(gzip="hold")
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(b"".join(step.data for step in packed[:-1])) == b""
    assert gzip.decompress(sent(gzip="hold")) == WHOLE


@pytest.mark.parametrize("raw", [WHOLE, b"", b"no blank line", b"data: a\r\n\r\n", WHOLE + b"da"])
def test_replayed_bytes_are_as_they_were_given(raw: bytes) -> None:
    assert b"".join(step.data for step in replayed(raw, 1.0, 0.5)) == raw


def test_a_replay_is_paced_by_event() -> None:
    assert [step.at for step in replayed(WHOLE, 1.0, 0.5)] == [1.0, 1.5, 2.0, 2.5]
