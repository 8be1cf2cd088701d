"""How one answer is told to differ from the ordinary.

A fault comes from the request's own body (`{"simulate": {"cut_at_event": 3}}`, which passes through
any proxy that forwards unknown fields), from `Simulator.inject`, or from `--fault` on the command
line. Field names are the same in all three.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class Ending(StrEnum):
    """How a response ends."""

    CLEAN = "clean"
    """As HTTP wants it: last chunk, END_STREAM."""
    RESET = "reset"
    """TCP RST on HTTP/1.1; RST_STREAM with `reset_code` on HTTP/2."""
    TORN = "torn"
    """In the middle of a chunk or DATA frame, then FIN."""
    CLOSE = "close"
    """The connection closes (FIN) without the response's end."""
    DROP = "drop"
    """The connection ends by TCP RST."""
    GOAWAY = "goaway"
    """HTTP/2: GOAWAY. Before the head: this stream is declared unprocessed, others live on; after
    it: with `reset_code`, and the connection closes. On HTTP/1.1 as `close`."""
    CLOSE_DELIMITED = "close_delimited"
    """HTTP/1.1: neither length nor chunks, the body ends with the connection: a cut looks whole."""
    HOLD = "hold"
    """Never: nothing more is sent, the response stays open."""


Spelling = Literal["bom", "crlf", "cr", "no_space", "ids"]


def _parts(value: Any) -> Any:
    return value.split("+") if isinstance(value, str) else value


class Fault(BaseModel):
    """One answer's difference from the ordinary. All fields may be combined; `None` = as usual.

    Events are counted from the start of the response body; waits are seconds before `time_scale`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Another answer.
    status: int | None = Field(default=None, ge=200, le=599)
    """This status instead of the answer; with `code`, its business error."""
    code: str | None = Field(default=None, coerce_numbers_to_str=True)
    """This business error instead of the answer, with the code's own status."""
    html: bool = False
    """A web page, under 200 unless `status` says otherwise."""
    empty: bool = False
    """An event stream without one event."""
    raw: bytes | None = None
    """These bytes are the response body: paced by `gap` where a blank line ends an event."""
    wire: bytes | None = None
    """HTTP/1.1 only: these bytes are the whole response, status line included; then FIN."""
    headers: tuple[tuple[str, str], ...] = ()
    """Response headers added, or put in place of those of the same name."""
    informational: int = Field(default=0, ge=0)
    """So many 103 responses before the real one."""
    early: int | None = Field(default=None, ge=0)
    """Answer when this many bytes of the request's body have come, without reading the rest."""

    # Another time.
    delay: float = Field(default=0.0, ge=0)
    """Seconds added before the head."""
    no_headers: bool = False
    """The head is never sent; `ending` says what happens instead, `hold` by default."""
    first_token: float | None = Field(default=None, ge=0)
    """Seconds from the request to the first token, in place of the profile's."""
    gap: float | None = Field(default=None, ge=0)
    """Seconds from token to token, in place of the profile's."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens of the answer, in place of the profile's."""
    thinking_tokens: int | None = Field(default=None, ge=0)

    # Other contents.
    finish_reason: str | None = None
    """`sensitive`, `network_error`, `abort`, …"""
    no_finish: bool = False
    """Neither the finish event nor the end event."""
    no_done: bool = False
    """No end event: `[DONE]`, or `message_stop`."""
    error_at_event: int | None = Field(default=None, ge=0)
    """After so many events an error object (`code`, 1234 by default) and the end; 0 = first."""
    glue_at_event: int | None = Field(default=None, ge=0)
    """After so many events the next stops half way; a new generation follows on its line."""
    after_end: bytes | None = None
    """Bytes after the end event."""

    # Another end.
    cut_at_event: int | None = Field(default=None, ge=0)
    """After so many events, `ending` (by default `reset`)."""
    cut_at_byte: int | None = Field(default=None, ge=0)
    """After so many bytes of the body, `ending` (by default `reset`)."""
    stall_at_event: int | None = Field(default=None, ge=0)
    """After so many events, nothing more: `cut_at_event` with `hold`."""
    ending: Ending | None = None
    reset_code: int = Field(default=2, ge=0, lt=2**32)
    """HTTP/2 error code of `reset` and `goaway` (RFC 9113 §7): 2 is INTERNAL_ERROR."""
    content_length: int | None = Field(default=None, ge=0)
    """Declares this length whatever the body is; after a shorter body the connection closes."""
    held_comments: float | None = Field(default=None, gt=0)
    """While holding, a comment line every so many seconds."""

    # Another shape of the same events.
    events_per_write: int = Field(default=1, ge=1)
    write_size: int | None = Field(default=None, ge=1)
    """Bytes per write; 1 = byte by byte."""
    drip: float = Field(default=0.0, ge=0)
    """Seconds between such writes."""
    comments: int | None = Field(default=None, ge=1)
    """A comment line before every Nth event."""
    spelling: Annotated[tuple[Spelling, ...], BeforeValidator(_parts)] = ()
    """Other ways to write the same events; in text joined by `+`."""
    no_object: bool = False
    """Chunks without the `object` field, as the service sent them until 2025."""
    gzip: Literal["flush", "hold"] | None = None
    """The stream compressed: flushed at each event, or given out at the end only."""

    @model_validator(mode="after")
    def _one_cut(self) -> Self:
        cuts = (self.cut_at_event, self.cut_at_byte, self.stall_at_event)
        if sum(cut is not None for cut in cuts) > 1:
            raise ValueError("cut_at_event, cut_at_byte and stall_at_event exclude each other")
        return self

    @property
    def refuses(self) -> bool:
        """An error response takes the answer's place."""
        return self.html or self.status is not None or self._code_at_head

    @property
    def _code_at_head(self) -> bool:
        return self.code is not None and self.error_at_event is None

    @property
    def last_event(self) -> int | None:
        """How many events are let through, if that is limited."""
        return self.cut_at_event if self.stall_at_event is None else self.stall_at_event

    def ending_after(self, cut: bool) -> Ending:
        """How the response ends, given whether its body was cut before its own end."""
        if self.stall_at_event is not None:
            return Ending.HOLD if cut else Ending.CLEAN
        if self.cut_at_event is None and self.cut_at_byte is None:
            return self.ending or Ending.CLEAN
        if not cut:
            return Ending.CLEAN
        return self.ending or Ending.RESET

    def text(self) -> str:
        """The fields that differ from the ordinary, for the ledger."""
        fields = self.model_dump(mode="python", exclude_defaults=True)
        return ", ".join(f"{name}={_short(value)}" for name, value in fields.items())


def _short(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def fault_of(fields: Any) -> Fault:
    """A fault from fields that somebody wrote; raises `ValueError`, in one line, if wrong."""
    try:
        return Fault.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


ORDINARY = Fault()
