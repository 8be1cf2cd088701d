"""One attempt: one request to one endpoint, from the send to the last byte.

An attempt is the sink of its upstream stream. Until the exchange commits it keeps what came;
after `stream_into` every read goes straight from the upstream connection's `data_received`
through the pipe to the client's transport. No task wakes per event: the exchange sleeps in
`stream_into` until the end.

One lazy timer watches silence: no first token, idle streams, the total, heartbeats, stuck clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.core.flow.patience import Due, Limits, Marks, next_due, overdue
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.wire.headers import content_of
from proxy.core.wire.inflate import ENCODINGS, Inflate
from proxy.errors import (
    AnswerTooLarge,
    ClientGone,
    EmptyStream,
    ProxyError,
    Refused,
    StreamCut,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamReset,
)
from proxy.net.h2.connection import Head
from proxy.net.halves import HEARTBEAT, Flow, Writer
from proxy.net.watchdog import Watchdog

_LINGER = 1.0
"""Seconds an upstream may take to close a stream after its end event (`[DONE]`)."""
_LINGER_BYTES = 64 * 1024
_SMALL_TALK = 64 * 1024
"""Bytes of comments and pings kept before the first useful event."""
_NO_ENCODING = (b"", b"identity")


class Attempt:
    """The sink of one upstream stream. `pipe` is None when a whole JSON answer is expected."""

    __slots__ = (
        "_client",
        "_flow",
        "_flush_timer",
        "_hold",
        "_inflate",
        "_last_write",
        "_linger",
        "_loop",
        "_over",
        "_parts",
        "_result",
        "_size",
        "_streaming",
        "_waiter",
        "_watchdog",
        "_write",
        "closed_at",
        "first",
        "first_byte",
        "head",
        "headers_at",
        "heartbeats",
        "limits",
        "outcome",
        "pipe",
        "protocol",
        "reused",
        "sent",
        "started",
        "timeline",
    )

    def __init__(
        self, pipe: Pipe | None, timeline: Timeline, limits: Limits, *, hold: bool = False
    ) -> None:
        """`hold`: another attempt could still take over, so an event that only opens an answer
        is no reason yet to commit to this one."""
        self.pipe = pipe
        self.timeline = timeline
        self.head: Head | None = None
        self.first: list[bytes] = []
        """Whole events that came before the commit."""
        self.outcome = "cancelled"
        self.protocol: str | None = None
        self.reused = False
        self.started = time.monotonic()
        self.sent: float | None = None
        self.headers_at: float | None = None
        self.first_byte: float | None = None
        self.closed_at: float | None = None
        self.heartbeats = 0
        self._hold = hold
        self._loop = asyncio.get_running_loop()
        self.limits = limits
        self._flow: Flow | None = None
        self._streaming = False
        self._inflate: Inflate | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._result: ProxyError | None = None
        self._over = False
        self._linger: asyncio.TimerHandle | None = None
        self._write: Callable[[list[bytes], bool], None] | None = None
        self._client: Writer | None = None
        self._last_write = 0.0
        self._watchdog = Watchdog(self._due, self._overdue, shortest=limits.shortest)
        self._flush_timer: asyncio.TimerHandle | None = None

    # --- for the exchange ------------------------------------------------------------------

    def opened(self, flow: Flow, protocol: str, *, reused: bool) -> None:
        """The request is on its way."""
        self._flow = flow
        self.protocol = protocol
        self.reused = reused
        self.sent = time.monotonic()
        self._watchdog.start()

    async def answered(self) -> None:
        """Wait for the first useful event, or for a whole answer. Raises the attempt's error."""
        while not self._over and not self._begun:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._result is not None and not self._begun:
            raise self._result

    @property
    def _begun(self) -> bool:
        """Whether the answer has begun, as far as somebody waits for it."""
        pipe = self.pipe
        return pipe is not None and (pipe.decisive if self._hold else pipe.useful)

    @property
    def is_stream(self) -> bool:
        return self._streaming

    @property
    def body(self) -> bytes:
        """The whole answer, when it is not a stream."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def stream_into(
        self, write: Callable[[list[bytes], bool], None], client: Writer | None
    ) -> ProxyError | None:
        """Send every event to `write` until the end. The answer is what went wrong, or None.

        The call of `write` that brings the end event has `last` set. `client` is who reads what is
        written; without one nobody waits, and no heartbeat is sent.
        """
        assert self.pipe is not None
        self._write = write
        self._client = client
        self._last_write = time.monotonic()
        if (
            client is not None and client.paused_since is not None
        ):  # by what an answer before this one left unread
            self.flow(True)
        first, self.first = self.first, []
        write(first, self.pipe.ended)
        del first  # it may be much, and the answer long
        while not self._over:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._result

    def flow(self, paused: bool) -> None:
        """The client stopped, or went on, reading: so does this stream, and only this one."""
        if self._flow is None:
            return
        if paused:
            self._flow.pause_reading()
        else:
            self._flow.resume_reading()

    def close(self) -> None:
        """End the attempt; the upstream is told unless it has finished. Idempotent."""
        if self.closed_at is None:
            self.closed_at = time.monotonic()
        self._over = True
        self._write = None
        self._client = None
        self._watchdog.stop()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._flow is None or self._linger is not None:
            return
        if self.pipe is not None and self.pipe.ended:
            self._linger = self._loop.call_later(_LINGER, self._cancel)
            self._size = 0
        else:
            self._cancel()

    def _cancel(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.cancel()

    # --- for the upstream stream (a Sink) ----------------------------------------------------

    def on_head(self, head: Head) -> None:
        self.headers_at = time.monotonic()
        self.head = head
        kind, encoding = content_of(head.headers)
        if encoding in ENCODINGS:
            self._inflate = Inflate()
        elif encoding not in _NO_ENCODING:
            self.fail(UpstreamProtocolError("the upstream compressed an answer unasked"))
            return
        self._streaming = (
            self.pipe is not None and head.status == 200 and kind.startswith(b"text/event-stream")
        )

    def on_data(self, data: bytes) -> None:
        if self._over:
            self._drain(data)
            return
        now = time.monotonic()
        if self.first_byte is None:
            self.first_byte = now
        if self._inflate is not None:
            try:
                data = self._inflate.feed(data)
            except UpstreamError as error:
                self.fail(error)
                return
        if not self._streaming:
            self._collect(data)
            return
        pipe = self.pipe
        assert pipe is not None
        try:
            events = pipe.feed(data, now)
        except UpstreamError as error:
            self.fail(error)
            return
        write = self._write
        if write is None:
            self.first += events
            self._size += len(data)
            if self._begun:
                self._wake()
            elif self._size > _SMALL_TALK:
                self._too_much_talk()
        elif events or pipe.ended:
            self._last_write = now
            write(events, pipe.ended)
        if self._over:  # who read the events had enough of them
            return
        if pipe.ended:
            self._finish(None)
        elif pipe.next_flush is not None and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(pipe.next_flush - now, self._flush)

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        self._flow = None
        if self._linger is not None:
            self._linger.cancel()
        if self._over:
            return
        pipe = self.pipe
        if self._inflate is not None and not self._streaming and not self._inflate.is_whole:
            self._finish(StreamCut("the upstream's compressed answer is not whole"))
        elif pipe is None or not self._streaming:
            self._finish(None)
        elif pipe.failed:
            self._hand_over(pipe.finish())
            self._finish(None)
        elif pipe.useful or pipe.pending:
            self._hand_over(pipe.finish())
            self._finish(StreamCut("the upstream ended its stream before the answer was whole"))
        else:
            self._finish(EmptyStream("the upstream answered with an empty stream"))

    def on_error(self, error: UpstreamError) -> None:
        self._flow = None
        if self._linger is not None:
            self._linger.cancel()
        if self.head is not None and isinstance(error, Refused):
            # An upstream that has begun to answer cannot take it back: nothing may be sent again.
            error = UpstreamReset(error.message)
        if not self._over:
            self.fail(error)

    # --- inside ----------------------------------------------------------------------------

    def _collect(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self.limits.max_answer:
            self.fail(AnswerTooLarge("the upstream's answer is over the limit"))
        else:
            self._parts.append(data)

    def _too_much_talk(self) -> None:
        """So much came and nothing that anybody waits for."""
        assert self.pipe is not None
        if self.pipe.useful:  # it opened an answer: let the client have it
            self._hold = False
            self._wake()
        else:
            self.first.clear()
            self._size = 0

    def _drain(self, data: bytes) -> None:
        """After the end event nothing is worth reading; a little is, to keep the connection."""
        self._size += len(data)
        if self._linger is not None and self._size > _LINGER_BYTES:
            self._linger.cancel()
            self._cancel()

    def _hand_over(self, events: list[bytes]) -> None:
        if not events:
            return
        if self._write is None:
            self.first += events
        else:
            self._write(events, False)

    def fail(self, error: ProxyError) -> None:
        """The attempt is over; what is whole and still held goes to the client first."""
        if self._over:
            return
        if self.pipe is not None and self._streaming:
            self._hand_over(self.pipe.finish())
        self._finish(error)

    def _finish(self, error: ProxyError | None) -> None:
        self._over = True
        self._watchdog.stop()
        self._result = error
        if error is not None:
            self.outcome = error.code
        else:
            self.outcome = "upstream_failed" if self._upstream_failed() else "completed"
        self.closed_at = time.monotonic()
        self._wake()

    def _upstream_failed(self) -> bool:
        if self.pipe is not None and (self.pipe.failed or self.pipe.failed_early):
            return True
        return self.head is not None and self.head.status >= 300

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _flush(self) -> None:
        self._flush_timer = None
        if self.pipe is None or self._over:
            return
        now = time.monotonic()
        self._hand_over(self.pipe.flush_due(now))
        due = self.pipe.next_flush
        if due is not None:
            self._flush_timer = self._loop.call_later(max(due - now, 0.0), self._flush)

    # --- silence ---------------------------------------------------------------------------

    def _due(self) -> tuple[float, Due]:
        pipe, client = self.pipe, self._client
        marks = Marks(
            sent=self.started if self.sent is None else self.sent,
            awaiting_head=self.head is None,
            awaiting_token=pipe is not None and self.timeline.first_token is None,
            last_useful=None if pipe is None else pipe.last_useful,
            last_write=None if client is None else self._last_write,
            paused_since=None if client is None else client.paused_since,
        )
        return next_due(self.limits, marks)

    def _overdue(self, due: Due, now: float) -> None:
        match due:
            case Due.STALL:
                assert self._client is not None
                if self._client.has_taken(now):
                    self._watchdog.start()
                else:
                    self._client.abort()
                    self._finish(ClientGone(f"the client read nothing for {self.limits.stall:g} s"))
            case Due.HEARTBEAT:
                assert self._write is not None
                self.heartbeats += 1
                self._last_write = now
                self._write([HEARTBEAT], False)
                self._watchdog.start()
            case _:
                self.fail(overdue(due, self.limits))
