"""The proxy's own messages: one line each, redacted, and libraries kept quiet."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Literal

import orjson
import pytest

from proxy.observe.app_log import LOGGER, configure_logging
from proxy.observe.lines import LineWriter

GLM_KEY = "8f3c1d9e7b5a4c2f8e6d0b1a9c7e5f3d.Xk29LmPq47RsTv0w"


class Captured:
    """Logging as `configure_logging` set it up, and what it wrote."""

    def __init__(self, level: str, form: Literal["json", "text"]) -> None:
        self._stream = io.BytesIO()
        self._lines = LineWriter(self._stream)
        self.log = logging.getLogger(f"{LOGGER}.net")
        configure_logging(level, form, self._lines)

    def lines(self) -> list[str]:
        assert self._lines.close(10)
        return self._stream.getvalue().decode().splitlines()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger(LOGGER)
    before = (root.handlers, root.level, own.level)
    yield
    root.handlers, root.level, own.level = before


def test_a_message_is_one_json_object() -> None:
    captured = Captured("info", "json")
    captured.log.info("endpoint %s is %s", "cn", "down")
    (line,) = captured.lines()
    fields = orjson.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "info",
        "logger": "glm_proxy.net",
        "message": "endpoint cn is down",
    }


def test_a_message_is_one_line_of_text() -> None:
    captured = Captured("info", "text")
    captured.log.warning("first\nforged\x1b[2J")
    (line,) = captured.lines()
    assert line.endswith(" warning glm_proxy.net: first\\nforged\\x1b[2J")


def fail() -> None:
    raise ValueError(f"bad key {GLM_KEY}\nin two lines")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_is_within_the_line_and_keeps_no_key(form: Literal["json", "text"]) -> None:
    captured = Captured("info", form)
    try:
        fail()
    except ValueError:
        captured.log.exception("Authorization: Bearer %s", GLM_KEY)
    (line,) = captured.lines()
    assert "in fail" in line
    assert "bad key *" in line
    assert not any(GLM_KEY[start : start + 8] in line for start in range(len(GLM_KEY) - 7))


def test_what_is_too_long_is_cut_where_it_tells_least() -> None:
    captured = Captured("info", "json")
    captured.log.info("begin %s end", "word " * 10_000)
    try:
        raise ValueError("line\n" * 10_000 + "the reason")
    except ValueError:
        captured.log.exception("failed")
    message, failure = (orjson.loads(line) for line in captured.lines())
    assert message["message"].startswith("begin word")
    assert failure["exception"].endswith("line\nthe reason")
    assert max(len(message["message"]), len(failure["exception"])) <= 16_384


def test_the_level_is_for_our_own_loggers_and_libraries_speak_from_warning_on() -> None:
    captured = Captured("debug", "text")
    captured.log.debug("ours")
    logging.getLogger("hpack.table").debug("a header with a key")
    logging.getLogger("aiohttp.server").warning("theirs")
    assert [line.rpartition(" ")[2] for line in captured.lines()] == ["ours", "theirs"]


def test_messages_below_the_level_are_not_written() -> None:
    captured = Captured("error", "text")
    captured.log.warning("quiet")
    assert captured.lines() == []


def test_a_message_that_does_not_fit_its_arguments_fails_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    captured = Captured("info", "text")
    captured.log.info("%d", "three")
    captured.log.info("next")
    assert [line.rpartition(" ")[2] for line in captured.lines()] == ["next"]
    assert "Logging error" in capsys.readouterr().err
