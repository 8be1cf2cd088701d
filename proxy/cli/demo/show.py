"""What a demonstration prints: tokens as they come, then tables of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.demo.ask import OnToken, Sample, Way

_STAGES: tuple[tuple[str, Callable[[Sample], float | None]], ...] = (
    ("connected", lambda sample: sample.connected),
    ("response headers", lambda sample: sample.headers_at),
    ("first event", lambda sample: sample.first_event),
    ("first token", lambda sample: sample.first_token),
    ("first content", lambda sample: sample.first_content),
    ("last byte", lambda sample: sample.last_byte),
)
_A_DOT = 10
"""Thinking tokens for each dot."""
_FILE_WIDTH = 100
"""Columns that tables may take in a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one way gave."""

    way: Way
    samples: Sequence[Sample]
    records: Sequence[dict[str, Any]]
    """Access log lines of the proxy on this way."""


def screen() -> Console:
    """Where everything goes."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def teller(console: Console) -> OnToken:
    """Writes each token at once: a dot for some of thinking, the text of what is visible."""
    thoughts = 0

    def tell(text: str, visible: bool) -> None:
        nonlocal thoughts
        if visible:
            console.out(text.replace("\n", " "), end="")
            return
        if thoughts == 0:
            console.out("(thinking) ", end="")
        thoughts += 1
        if thoughts % _A_DOT == 0:
            console.out(".", end="")

    return tell


def tables(console: Console, shown: Sequence[Shown]) -> None:
    """What was measured here, and what the proxy says of it."""
    runs = len(shown[0].samples)
    each = f", median of {runs}" if runs > 1 else ""
    console.print(f"\nSeconds since the request left the SDK{each}", style="bold")
    console.print(_stages(shown))
    console.print("What the proxy says", style="bold")
    console.print(_seen(shown))


def begin(console: Console, way: Way) -> None:
    """The heading above the tokens of a way."""
    console.print()
    console.print(Text.assemble((way.name, "bold"), f"  {way.about}"))


def _stages(shown: Sequence[Shown]) -> Table:
    """Medians in seconds since the request left the SDK, one column per way."""
    table = _table(["", *(one.way.name for one in shown)], numbers=True)
    for name, read in _STAGES:
        table.add_row(name, *(_seconds(median(one.samples, read)) for one in shown))
    return table


def _seen(shown: Sequence[Shown]) -> Table:
    """What the proxies say of the same requests."""
    proxied = [one for one in shown if one.records]
    table = _table(["", *(one.way.name for one in proxied)], numbers=False)
    for name, read in _FACTS:
        table.add_row(name, *(read(one) for one in proxied))
    return table


def median(samples: Sequence[Sample], read: Callable[[Sample], float | None]) -> float | None:
    """Of what was measured; None if nothing was."""
    values = [value for sample in samples if (value := read(sample)) is not None]
    return statistics.median(values) if values else None


def overhead(records: Sequence[dict[str, Any]]) -> float:
    """Median seconds that the proxy itself added before the first byte, by its own clock."""
    return statistics.median([float(record["overhead_s"]) for record in records])


def _models(one: Shown) -> str:
    record = one.records[0]
    asked, served = record["requested_model"], record["served_model"]
    return str(asked) if asked == served else f"{asked}, served by {served}"


def _endpoint(one: Shown) -> str:
    attempt = one.records[0]["attempts"][0]
    return f"{attempt['endpoint']}, by {attempt['protocol']}"


def _waited(one: Shown) -> str:
    waits = [float(record["attempts"][0]["connect_s"]) for record in one.records]
    return f"{statistics.median(waits) * 1000:.2f} ms"


def _events(one: Shown) -> str:
    """The SDK keeps `[DONE]` to itself, so it hands out one less than the proxy has passed on."""
    passed = sum(record["events"] for record in one.records)
    read = sum(sample.events + 1 for sample in one.samples)
    return f"{passed} passed on, {read} read"


# Of the first run, or where it is said of all; durations are medians.
_FACTS: tuple[tuple[str, Callable[[Shown], str]], ...] = (
    ("model", _models),
    ("endpoint", _endpoint),
    ("wait for a connection", _waited),
    ("route", lambda one: str(one.records[0]["route"])),
    ("events, all runs", _events),
    ("server-timing, ms", lambda one: _timings(one.samples[0].headers["server-timing"])),
    ("overhead", lambda one: f"{overhead(one.records) * 1000:.2f} ms"),
)


def _timings(header: str) -> str:
    """The stages of `server-timing` (W3C Server Timing) that take time, a line each."""
    entries = (entry.partition(";dur=") for entry in header.split(", "))
    return "\n".join(f"{name} {took}" for name, _, took in entries if name in _TOLD)


_TOLD = ("sent", "headers", "first_event", "first_token", "first_content")


def _table(heads: Sequence[str], *, numbers: bool) -> Table:
    table = Table(header_style="bold")
    for index, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if numbers and index else "left")
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
