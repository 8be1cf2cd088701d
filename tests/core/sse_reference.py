"""A reading of the standard's event stream rules, written for clarity: the whole text at once.

It shares nothing with the decoder under test and gives what a browser would dispatch, without
the events whose data is empty, which are not forwarded.
"""

from __future__ import annotations

import re


def events(stream: bytes) -> list[tuple[str, str]]:
    """(name, data) of each event, from HTML §9.2.6 step by step."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)[:-1]  # the last line has no end
    dispatched = []
    data: list[str] = []
    name = ""
    for line in lines:
        if line == "":
            if "\n".join(data):
                dispatched.append((name, "\n".join(data)))
            data, name = [], ""
        elif not line.startswith(":"):
            field, value = line.split(":", 1) if ":" in line else (line, "")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
    return dispatched
