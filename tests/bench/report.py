"""From rounds to one Markdown table: medians, ratios to nginx within a round, and the bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from tests.bench.scenes import Figures

Round = dict[str, Figures]
"""Peer -> figures, all measured one after the other."""
Rounds = dict[tuple[str, str], list[Round]]
"""(upstream kind, scene) -> its rounds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure of a scene, how it is computed and shown."""

    scene: str
    title: str
    figure: str
    scale: float = 1.0
    digits: int = 1
    beside: str = ""
    """Shown in brackets: `ratio` to nginx, or what is `added` to direct, in the same round."""


ROWS = (
    Row("b50", "CPU per event, b50, us", "cpu_per_event", beside="ratio"),
    Row("b200", "CPU per event, b200, us", "cpu_per_event", beside="ratio"),
    Row("long", "CPU per event, long, us", "cpu_per_event", digits=2, beside="ratio"),
    Row("r", "CPU per request, r, us", "cpu_per_request", beside="ratio"),
    Row("r", "requests per second, r", "requests_per_s", digits=0),
    Row("b50", "event latency p50, b50, us", "event_p50", digits=0, beside="added"),
    Row("b50", "event latency p99, b50, us", "event_p99", digits=0, beside="added"),
    Row("b200", "event latency p50, b200, us", "event_p50", digits=0, beside="added"),
    Row("b200", "event latency p99, b200, us", "event_p99", digits=0, beside="added"),
    Row("a2", "event latency p50, a2, us", "event_p50", digits=0, beside="added"),
    Row("a2", "TTFB p50, a2, ms", "ttfb_p50", 1e-3, 2, "added"),
    Row("a2", "first event p50, a2, ms", "first_event_p50", 1e-3, 2, "added"),
    Row("mem", "KB per held stream", "kb_per_stream"),
    Row("mem", "idle memory (PSS), MB", "idle_kb", scale=1 / 1024),
    Row("b50", "chunks of exactly one event, b50, %", "whole_chunks", 100, 0),
    Row("b200", "chunks of exactly one event, b200, %", "whole_chunks", 100, 0),
)


def values(rounds: list[Round], row: Row, peer: str) -> list[float]:
    """The row's figure of one peer, one value per round in which it was measured."""
    found = (one.get(peer, {}).get(row.figure) for one in rounds)
    return [value * row.scale for value in found if value is not None]


def ratios(rounds: list[Round], row: Row, peer: str) -> list[float]:
    """The figure as a multiple of nginx's in the same round."""
    return [a / b for a, b in _pairs(rounds, row, peer, "nginx") if b]


def added(rounds: list[Round], row: Row, peer: str, to: str = "direct") -> list[float]:
    """The figure minus another peer's in the same round."""
    return [(a - b) * row.scale for a, b in _pairs(rounds, row, peer, to)]


def _pairs(rounds: list[Round], row: Row, peer: str, other: str) -> list[tuple[float, float]]:
    both = (one for one in rounds if peer in one and other in one)
    return [(one[peer][row.figure], one[other][row.figure]) for one in both]


def table(results: Rounds, kinds: Iterable[str], peers: list[str]) -> str:
    lines = [
        "| upstream | figure | " + " | ".join(peers) + " |",
        "|---|---|" + "--:|" * len(peers),
    ]
    for kind in kinds:
        for row in ROWS:
            rounds = results.get((kind, row.scene), [])
            cells = [_cell(kind, rounds, row, peer) for peer in peers]
            if any(cells):
                lines.append(f"| {kind} | {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(kind: str, rounds: list[Round], row: Row, peer: str) -> str:
    found = values(rounds, row, peer)
    if not found or (peer == "direct" and row.figure.startswith("cpu")):
        return ""
    text = f"{median(found):,.{row.digits}f}"
    if row.beside == "ratio" and (multiple := ratios(rounds, row, peer)):
        return f"{text} ({median(multiple):.2f} ×)"
    # Many direct connections are dearer for the TLS front than one HTTP/2 connection, so with
    # them "direct" is no baseline for latency.
    comparable = peer != "direct" and (kind == "h1" or row.scene == "a2")
    if row.beside == "added" and comparable and (more := added(rounds, row, peer)):
        return f"{text} ({median(more):+,.{row.digits}f})"
    return text


# --- the bars -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about glm-proxy with the TLS + HTTP/2 upstream."""

    title: str
    scene: str
    limit: float
    unit: str
    measure: Callable[[list[Round]], float | None]


def _median(found: list[float]) -> float | None:
    return median(found) if found else None


def _ratio(rounds: list[Round]) -> float | None:
    return _median(ratios(rounds, _row("cpu_per_event"), "glm-proxy"))


def _over_nginx(rounds: list[Round]) -> float | None:
    return _median(added(rounds, _row("event_p50"), "glm-proxy", to="nginx"))


def _added_ttfb(rounds: list[Round]) -> float | None:
    return _median(added(rounds, _row("ttfb_p50"), "glm-proxy"))


def _kb_per_stream(rounds: list[Round]) -> float | None:
    return _median(values(rounds, _row("kb_per_stream"), "glm-proxy"))


def _told(rounds: list[Round]) -> float | None:
    return _median(added(rounds, _row("cpu_per_event"), "full", to="bare"))


def _row(figure: str) -> Row:
    return next(row for row in ROWS if row.figure == figure)


BARS = (
    Bar("CPU per event, b50", "b50", 1.3, "× nginx", _ratio),
    Bar("CPU per event, b200", "b200", 1.3, "× nginx", _ratio),
    Bar("event latency p50, b50", "b50", 20, "us over nginx", _over_nginx),
    Bar("event latency p50, b200", "b200", 20, "us over nginx", _over_nginx),
    Bar("added TTFB, a2", "a2", 0.5, "ms", _added_ttfb),
    Bar("held stream", "mem", 12, "KB", _kb_per_stream),
    Bar("everything told against nothing, long", "long", 1.0, "us CPU per event", _told),
)


def bars(results: Rounds) -> list[str]:
    """One line per bar that could be measured."""
    lines = []
    for bar in BARS:
        measured = bar.measure(results.get(("tls", bar.scene), []))
        if measured is not None:
            word = "reached" if measured <= bar.limit else "NOT reached"
            lines.append(f"{word}: {bar.title} {measured:.2f} {bar.unit} (bar: {bar.limit:g})")
    return lines


def failures(results: Rounds) -> list[str]:
    """One line per peer and scene in which a request failed."""
    lines = []
    for (kind, scene), rounds in results.items():
        for peer in sorted({name for one in rounds for name in one}):
            failed = sum(one[peer]["failed"] for one in rounds if peer in one)
            if failed:
                lines.append(f"{peer}, {kind}, {scene}: {failed:g} requests failed")
    return lines


def load(results: Rounds) -> list[str]:
    """One line per timed scene: how busy the cores were, which says what limited the run."""
    lines = []
    for (kind, scene), rounds in results.items():
        figures = [f for one in rounds for f in one.values() if "foreign_busy" in f]
        if figures:
            measuring, peer, foreign = (
                [f[name] for f in figures]
                for name in ("measuring_busy", "peer_busy", "foreign_busy")
            )
            lines.append(
                f"{kind} {scene}: measuring core up to {max(measuring):.0%} busy, peer core up to"
                f" {max(peer):.0%}; other work on both {median(foreign):.0%} of the time,"
                f" at worst {max(foreign):.0%}"
            )
    return lines
