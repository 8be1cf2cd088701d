"""From the samples of the suite `lumosai` to its figures, in seconds of the simulated service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from proxy.bench.figures import GOAL_FIRST_CONTENT, GOAL_TIMES_SOONER, percentile
from proxy.bench.measure import Sample
from proxy.bench.suite.conditions import Conditions
from proxy.bench.suite.lumosai import LEVERS, PROXIED, SCENES, V1, V2, without

LogLine = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """All that a run has found; times as the machine's clock has them."""

    conditions: Conditions
    samples: Sequence[Sample]
    lines: Mapping[str, Sequence[LogLine]] = field(default_factory=dict)
    """Access log of each proxy, by way."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scene on one way: medians over the complete answers, seconds."""

    complete: int
    failed: int
    ttfb: float
    first_content: float
    first_content_p90: float
    total: float
    visible: float
    """Events with visible text."""
    chunks_per_visible: float
    """HTTP chunks that brought visible text, for each such event: 1 is none held back."""
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Where the time of a scene went: means, so that the parts add up; seconds."""

    n: int
    to_headers: float
    """Connection, way and queue."""
    to_first_token: float
    """Scheduling and reading the prompt."""
    to_first_content: float
    """Thinking."""
    to_end: float
    """The visible text."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise in one scene."""

    scene: str
    kind: str
    """`first_content`, `times` or `streaming`."""
    expected: float
    actual: float
    reached: bool


def cell(found: Found, way: str, scene: str) -> Cell | None:
    """None without a complete answer."""
    scale = found.conditions.time_scale
    of_it = [s for s in found.samples if s.way == way and s.scene == scene]
    whole = [s for s in of_it if s.complete and s.first_content is not None]
    if not whole:
        return None
    firsts = [(s.first_content or 0.0) / scale for s in whole]
    return Cell(
        complete=len(whole),
        failed=len(of_it) - len(whole),
        ttfb=percentile([(s.ttfb or 0.0) / scale for s in whole], 0.5),
        first_content=percentile(firsts, 0.5),
        first_content_p90=percentile(firsts, 0.9),
        total=percentile([(s.last_byte or 0.0) / scale for s in whole], 0.5),
        visible=median(s.visible for s in whole),
        chunks_per_visible=median(min(1.0, s.chunks / s.events) for s in whole if s.events),
        models=tuple(sorted({s.model for s in whole if s.model})),
    )


def times_better(found: Found, way: str, scene: str) -> float | None:
    """How many times sooner than the V1 baseline the first visible token came."""
    baseline, other = cell(found, V1.name, scene), cell(found, way, scene)
    if baseline is None or other is None:
        return None
    return baseline.first_content / other.first_content


def goals(found: Found) -> list[Goal]:
    """Judged on medians; a scene without answers has reached nothing."""
    judged = []
    for scene in SCENES:
        through = cell(found, PROXIED.name, scene.name)
        first = float("inf") if through is None else through.first_content
        times = times_better(found, PROXIED.name, scene.name) or 0.0
        apart = 0.0 if through is None else through.chunks_per_visible
        judged += [
            Goal(
                scene.name, "first_content", GOAL_FIRST_CONTENT, first, first <= GOAL_FIRST_CONTENT
            ),
            Goal(scene.name, "times", GOAL_TIMES_SOONER, times, times >= GOAL_TIMES_SOONER),
            Goal(scene.name, "streaming", 0.9, apart, apart >= 0.9),
        ]
    return judged


# --- levers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What is lost when one lever is off; seconds of first content."""

    lever: str
    first_content: tuple[float | None, ...]
    """Medians with it off, by scene."""
    lost: tuple[float | None, ...]
    """How much later than with all on, by scene."""
    p90: float | None
    """Over all scenes."""
    of_saving: float | None
    """Of all that the proxy saves, the part that is gone with this lever, over all scenes."""


def shares(found: Found) -> list[Share]:
    """One for each lever, in their order."""
    return [_share(found, lever) for lever in LEVERS]


def _share(found: Found, lever: str) -> Share:
    way = without(lever).name
    off = [cell(found, way, scene.name) for scene in SCENES]
    on = [cell(found, PROXIED.name, scene.name) for scene in SCENES]
    before = [cell(found, V1.name, scene.name) for scene in SCENES]
    lost = [
        None if a is None or b is None else a.first_content - b.first_content
        for a, b in zip(off, on, strict=True)
    ]
    saved = [
        None if a is None or b is None else a.first_content - b.first_content
        for a, b in zip(before, on, strict=True)
    ]
    known = [(a, b) for a, b in zip(lost, saved, strict=True) if a is not None and b is not None]
    all_saved = sum(b for _, b in known)
    return Share(
        lever=lever,
        first_content=tuple(None if a is None else a.first_content for a in off),
        lost=tuple(lost),
        p90=overall_p90(found, way),
        of_saving=sum(a for a, _ in known) / all_saved if known and all_saved > 0 else None,
    )


def overall_p90(found: Found, way: str) -> float | None:
    """Of first content, over all scenes together."""
    firsts = [
        s.first_content / found.conditions.time_scale
        for s in found.samples
        if s.way == way and s.complete and s.first_content is not None
    ]
    return percentile(firsts, 0.9) if firsts else None


# --- stages ---------------------------------------------------------------------------------------


def split(found: Found, way: str, scene: str) -> Split | None:
    """Where the time went: of direct answers as the client saw it, else as the proxy's log has it.

    The log's exchanges of one attempt only: of several, the parts do not add up.
    """
    if way in (V1.name, V2.name):
        marks = [
            (s.headers, s.ttft, s.first_content, s.last_byte)
            for s in found.samples
            if s.way == way and s.scene == scene and s.complete
        ]
    else:
        marks = [
            (_to_headers(line), line["ttft_s"], line["first_content_s"], line["duration_s"])
            for line in lines_of(found, way, scene)
            if line["attempt_count"] == 1
        ]
    whole = [tuple(float(x) for x in m if x is not None) for m in marks if None not in m]
    if not whole:
        return None
    scale = found.conditions.time_scale
    headers, token, content, end = (fmean(column) / scale for column in zip(*whole, strict=True))
    return Split(len(whole), headers, token - headers, content - token, end - content)


def _to_headers(line: LogLine) -> float | None:
    attempt = line["attempts"][0]
    waits = (attempt["connect_s"], attempt["headers_s"])
    return None if None in waits else sum(waits)


def lines_of(found: Found, way: str, scene: str) -> list[LogLine]:
    """The proxy's log of a scene's complete exchanges."""
    begin = f"{way}-{scene}-"
    return [
        line
        for line in found.lines.get(way, ())
        if line["request_id"].startswith(begin) and line["outcome"] == "completed"
    ]


@dataclass(frozen=True, slots=True)
class Said:
    """What the proxy's log says of a scene."""

    exchanges: int
    attempts: int
    overhead: float
    """Median milliseconds of the machine's clock that the proxy itself added."""
    connection: float
    """Median milliseconds of the machine's clock until a request was on a connection."""
    served: tuple[str, ...]
    """Model and how often."""


def said(found: Found, scene: str) -> Said | None:
    """None when the log has nothing of it."""
    lines = lines_of(found, PROXIED.name, scene)
    if not lines:
        return None
    models = [str(line["served_model"]) for line in lines]
    return Said(
        exchanges=len(lines),
        attempts=sum(line["attempt_count"] for line in lines),
        overhead=1000 * median(line["overhead_s"] or 0.0 for line in lines),
        connection=1000 * median(line["attempts"][0]["connect_s"] or 0.0 for line in lines),
        served=tuple(f"{m} × {models.count(m)}" for m in dict.fromkeys(sorted(models))),
    )


def least_thinking(found: Found, scene: str) -> float | None:
    """Seconds V1 has to think for the goal of three times; below 0: even without thinking."""
    before, through = split(found, V1.name, scene), cell(found, PROXIED.name, scene)
    if before is None or through is None:
        return None
    rest = before.to_headers + before.to_first_token
    return GOAL_TIMES_SOONER * through.first_content - rest
