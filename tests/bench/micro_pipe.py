"""What one event costs on its way through `Pipe.feed`: `python -m tests.bench.micro_pipe`.

Without sockets, JSON reading included; the best of nine runs, in microseconds. `cut` is a read
that begins and ends inside an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from timeit import repeat

from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM

_DATA = Path(__file__).parents[1] / "data" / "glm"
_EVENTS = 20_000


@dataclass(frozen=True)
class _Settings:
    text_buffer_size: int = 1
    text_buffer_max_delay: float = 0.1
    split_text: int = 0
    max_event: int = 8 * 1024 * 1024


@dataclass(frozen=True)
class _Row:
    title: str
    dialect: Dialect
    event: bytes
    settings: _Settings = _Settings()
    cut: int = 0
    """Where in an event each read begins."""


def main() -> None:
    english = _event("02-plain-text", 1)
    chinese = _event("14-utf8-chinese", 1)
    thinking = _event("03-reasoning-then-content", 2)
    messages = _event("20-anthropic-text", 4)
    rows = (
        _Row("GLM", GLM, english),
        _Row("GLM, Chinese", GLM, chinese),
        _Row("GLM, reasoning", GLM, thinking),
        _Row("Anthropic", ANTHROPIC, messages),
        _Row("GLM, cut", GLM, english, cut=100),
        _Row("GLM, CR LF", GLM, english.replace(b"\n", b"\r\n")),
        _Row("GLM, text_buffer_size 20", GLM, english, _Settings(text_buffer_size=20)),
        _Row("GLM, split_text 1", GLM, english, _Settings(split_text=1)),
    )
    print("| us per event | bytes | 1 a read | 10 a read |\n|---|--:|--:|--:|")
    for row in rows:
        print(f"| {row.title} | {len(row.event)} | {_cost(row, 1):.2f} | {_cost(row, 10):.2f} |")


def _event(fixture: str, index: int) -> bytes:
    return (_DATA / f"{fixture}.sse").read_bytes().split(b"\n\n")[index] + b"\n\n"


def _cost(row: _Row, events: int) -> float:
    pipe = Pipe(row.dialect, row.settings, Timeline(0.0))
    pipe.feed(row.event + row.event[: row.cut], 0.0)
    read = row.event[row.cut :] + row.event * (events - 1) + row.event[: row.cut]
    reads = _EVENTS // events
    best = min(repeat(lambda: pipe.feed(read, 1.0), number=reads, repeat=9))
    return best / reads / events * 1e6


if __name__ == "__main__":
    main()
