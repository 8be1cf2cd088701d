"""The report on the suite `tail`: Markdown and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from proxy import __version__
from proxy.bench.suite.tail import DIRECT, PROXIED, WAYS, Found
from proxy.bench.suite.tail_figures import Goal, figures, goals, median_apart, outage
from proxy.bench.suite.tail_words import WORDS
from proxy.bench.suite.writing import (
    Words,
    bullets,
    environment,
    goal_table,
    percent,
    seconds,
    table,
)

_ROWS = (
    ("tail", DIRECT),
    ("tail", PROXIED),
    ("slow", DIRECT),
    ("slow", PROXIED),
    ("down", PROXIED),
)


def markdown(found: Found, lang: str) -> str:
    """The whole report; `lang` is `en` or `zh`."""
    w = WORDS[lang]
    c = found.conditions
    command = (
        f"glm-proxy bench --suite tail --lang {lang} --requests {c.requests}"
        f" --seed {c.seed} --time-scale {c.time_scale:g}"
    )
    apart = median_apart(found)
    parts = [
        f"# {w['title']}",
        f"> {w['simulated']}\n>\n> {w['calibrated']}\n>\n> {w['cannot']}",
        f"## {w['environment']}",
        environment(w, c, command) + "\n" + bullets([w["ways"]]),
        f"## {w['results']}",
        _results(w, found),
        w["results_note"],
        w["apart"].format(apart=apart) if apart is not None else "",
        f"## {w['outage']}",
        bullets(_outage(w, found)),
        f"## {w['goals']}",
        goal_table(w, (_goal(w, goal) for goal in goals(found))),
        f"## {w['decisions']}",
        _decisions(w, found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(w: Words, found: Found) -> str:
    rows = []
    for phase, way in _ROWS:
        f = figures(found, way, phase)
        head = [w[f"phase_{phase}"], w[f"way_{way}"]]
        if f is None:
            rows.append([*head, *["–"] * 7])
            continue
        rows.append(
            [
                *head,
                str(f.requests),
                str(f.complete),
                *(seconds(value, 3) for value in (f.p50, f.p90, f.p99)),
                "–" if f.attempts is None else str(f.attempts),
                percent(None if phase == "down" else f.extra),
            ]
        )
    return table(w["results_heads"].split(";"), rows, text_columns=2)


def _outage(w: Words, found: Found) -> Iterator[str]:
    o = outage(found)
    if o is None:
        return
    yield w["outage_asked"].format(
        seconds=o.seconds,
        requests=o.requests,
        attempts=o.attempts,
        ratio=o.attempts / o.requests,
        answered=o.answered,
        outcomes=_counted(o.outcomes),
    )
    if o.steady:
        yield w["outage_before"].format(
            steady=o.steady, steady_peak=o.steady_peak, peak=o.peak, ratio=o.peak / o.steady
        )
    if o.first_answer is not None and o.recovered is not None:
        yield w["outage_back"].format(first=o.first_answer, recovered=o.recovered)
    yield w["outage_client"]


def _goal(w: Words, goal: Goal) -> tuple[str, str, str, bool]:
    sign = "≤" if goal.at_most else "≥"
    expected, actual = _told(goal.name, goal.expected), "–"
    if goal.actual is not None:
        actual = _told(goal.name, goal.actual)
    return w[f"goal_{goal.name}"], f"{sign} {expected}", actual, goal.reached


def _told(name: str, value: float) -> str:
    match name:
        case "p50":
            return f"{value:.2f} ms"
        case "extra" | "slow_extra" | "slow_complete":
            return percent(value)
        case _:
            return f"{value:.2f} ×"


def _decisions(w: Words, found: Found) -> str:
    """How often the log names each decision and each reason, by phase."""
    told = []
    for phase in ("tail", "slow", "down"):
        counts: Counter[str] = Counter()
        for line in found.lines:
            if line["request_id"].startswith(f"{PROXIED}-{phase}-"):
                counts.update(line.get("decisions") or ())
        if counts:
            told.append(f"{w[f'phase_{phase}']}: {_counted(counts)}")
    return bullets(told) if told else w["decisions_none"]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in Counter(counts).most_common())


def as_json(found: Found) -> str:
    """All figures, every sample and the proxy's log; numbers of samples are not scaled back."""

    def told(value: Any) -> Any:
        return None if value is None else asdict(value)

    report = {
        "glm_proxy": __version__,
        "suite": "tail",
        "simulated": True,
        "conditions": asdict(found.conditions),
        "phases": {
            phase: {way: told(figures(found, way, phase)) for way in WAYS}
            for phase in ("tail", "slow", "down")
        },
        "median_apart_ms": median_apart(found),
        "outage": told(outage(found)),
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals(found)],
        "samples": [asdict(sample) for sample in found.samples],
        "access_log": list(found.lines),
    }
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
