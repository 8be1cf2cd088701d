"""The proxy's own warnings: the standard library's logging, as lines nobody waits for."""

from __future__ import annotations

import logging
from typing import Literal

import orjson

from proxy.observe.lines import LineWriter, timestamp
from proxy.observe.redact import cut, escaped, redacted

LOGGER = "glm_proxy"
"""The one logger of this project; others go below it."""

_LONGEST = 16_384
"""Characters of a message, and of a traceback."""


class _Lines(logging.Handler):
    """Gives each record to a `LineWriter` as one redacted line, a traceback included."""

    def __init__(self, lines: LineWriter, form: Literal["json", "text"]) -> None:
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


def configure_logging(level: str, form: Literal["json", "text"], lines: LineWriter) -> None:
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
