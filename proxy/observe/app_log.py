"""The proxy's own warnings: the standard library's logging, as lines nobody waits for."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import orjson

from proxy.config import Log
from proxy.observe.lines import LineWriter, timestamp
from proxy.observe.redact import cut, escaped, redacted

LOGGER = "glm_proxy"
"""The one logger of this project; others go below it."""

_LONGEST = 16_384
"""Characters of a message, and of a traceback."""
_LAST_LINES = 1.0
"""Seconds to wait for the last lines to be written."""


class Lines(Protocol):
    """Where lines go: a `LineWriter`, or what writes without a thread."""

    def write(self, line: bytes) -> None:
        """Takes one whole line, its newline included, and never blocks."""


class _Lines(logging.Handler):
    """Gives each record to a `LineWriter` as one redacted line, a traceback included."""

    def __init__(self, lines: Lines, form: Literal["json", "text"]) -> None:
        super().__init__()
        self._lines = lines
        self._line = json_line if form == "json" else text_line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except (TypeError, ValueError):  # a message and arguments that do not fit
            self.handleError(record)
        else:
            self._lines.write(line)


@contextmanager
def own_log(settings: Log) -> Iterator[None]:
    """The proxy's own messages on standard error; `format: off` is about the access log only."""
    lines = LineWriter(io.FileIO(2, "wb", closefd=False))
    log_to(lines, settings)
    try:
        yield
    finally:
        lines.close(_LAST_LINES)


def log_to(lines: Lines, settings: Log) -> None:
    """Sends what is logged to `lines`, as the settings say."""
    configure_logging(settings.level, "text" if settings.format == "text" else "json", lines)


def configure_logging(level: str, form: Literal["json", "text"], lines: Lines) -> None:
    """Sends what is logged to `lines`; replaces what was configured before.

    `level` is for our own loggers. Libraries are heard from WARNING on: at DEBUG some of them log
    the headers they send.
    """
    root = logging.getLogger()
    root.handlers = [_Lines(lines, form)]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(level.upper())


def json_line(record: logging.LogRecord) -> bytes:
    """`time`, `level`, `logger`, `message`, and `exception` with the traceback if there is one."""
    fields = {
        "time": timestamp(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
    }
    if record.exc_info:
        fields["exception"] = _traceback(record)
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def text_line(record: logging.LogRecord) -> bytes:
    """One line for a person; a traceback's own line ends are escaped."""
    at = timestamp(record.created)
    line = f"{at} {record.levelname.lower()} {record.name}: {_message(record)}"
    if record.exc_info:
        line += f" | {escaped(_traceback(record))}"
    return f"{line}\n".encode()


def _message(record: logging.LogRecord) -> str:
    return escaped(redacted(cut(record.getMessage(), _LONGEST)))


def _traceback(record: logging.LogRecord) -> str:
    """Redacted, in the traceback's own lines, which JSON escapes."""
    assert record.exc_info is not None
    text = _PLAIN_FORMATTER.formatException(record.exc_info)
    if len(text) > _LONGEST:  # its end tells the most; from a whole line on
        text = text[-_LONGEST:].partition("\n")[2]
    text = redacted(text)
    return "\n".join(escaped(line) for line in text.split("\n"))


_PLAIN_FORMATTER = logging.Formatter()
