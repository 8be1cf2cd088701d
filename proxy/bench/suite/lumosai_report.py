"""The report on the suite `lumosai`, laid out as the one it repeats: Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from proxy import __version__
from proxy.bench.figures import GOAL_TIMES_SOONER
from proxy.bench.suite.lumosai import PROXIED, SCENES, V1, V2, without
from proxy.bench.suite.lumosai_figures import (
    Found,
    Goal,
    cell,
    goals,
    least_thinking,
    overall_p90,
    said,
    shares,
    split,
    times_better,
)
from proxy.bench.suite.lumosai_words import WORDS
from proxy.bench.suite.writing import (
    Words,
    bullets,
    environment,
    goal_table,
    percent,
    seconds,
    table,
    times,
)

_WAYS = (V1.name, V2.name, PROXIED.name)
# Name of the words, way, scene, attribute of a cell, what was recorded, digits.
_RECORDED = (
    ("cal_v1_first", V1.name, "medium", "first_content", 28.8, 1),
    ("cal_v1_chunks", V1.name, "medium", "visible", 67, 0),
    ("cal_v2_first", V2.name, "long", "first_content", 15.6, 1),
    ("cal_v2_total", V2.name, "long", "total", 15.7, 1),
    ("cal_v2_chunks", V2.name, "long", "visible", 21, 0),
    ("cal_v2_sentence", V2.name, "sentence", "total", 1.6, 1),
)


def markdown(found: Found, lang: str) -> str:
    """The whole report; `lang` is `en` or `zh`."""
    w = WORDS[lang]
    c = found.conditions
    command = (
        f"glm-proxy bench --suite lumosai --lang {lang} --requests {c.requests}"
        f" --seed {c.seed} --time-scale {c.time_scale:g}"
    )
    parts = [
        f"# {w['title']}",
        f"> {w['simulated']}\n>\n> {w['calibrated']}\n>\n> {w['cannot']}",
        f"## {w['environment']}",
        environment(w, c, command),
        bullets(w[f"ways_{way}"] for way in _WAYS),
        f"## {w['results']}",
        _results(w, found),
        w["results_note"],
        bullets(_failures(w, found)),
        f"### {w['calibration']}",
        _calibration(w, found),
        f"## {w['comparison']}",
        _comparison(w, found),
        w["comparison_note"],
        f"## {w['levers']}",
        w["levers_note"],
        _levers(w, found),
        f"## {w['goals']}",
        _goals(w, found),
        f"## {w['stages']}",
        _stages(w, found),
        w["stages_note"],
        _proxy(w, found),
        w["proxy_note"],
        f"## {w['analysis']}",
        bullets(_analysis(w, found)),
        f"## {w['next']}",
        bullets(_next(w, found)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(w: Words, found: Found) -> str:
    rows = []
    for scene in SCENES:
        for way in _WAYS:
            c = cell(found, way, scene.name)
            head = [w[f"scene_{scene.name}"], w[f"way_{way}"]]
            if c is None:
                rows.append([*head, *["–"] * 7])
                continue
            against = None if way == V1.name else times_better(found, way, scene.name)
            rows.append(
                [
                    *head,
                    ", ".join(c.models) or "–",
                    *map(seconds, (c.ttfb, c.first_content, c.first_content_p90, c.total)),
                    f"{c.visible:.0f}",
                    times(against),
                ]
            )
    return table(w["results_heads"].split(";"), rows, text_columns=3)


def _failures(w: Words, found: Found) -> Iterator[str]:
    for way in dict.fromkeys(s.way for s in found.samples):
        for scene in SCENES:
            of_it = [s for s in found.samples if s.way == way and s.scene == scene.name]
            bad = [s for s in of_it if not s.complete]
            if bad:
                told = w["failed"].format(count=len(bad), way=way, scene=scene.name)
                yield f"{told} ({bad[0].detail})"


def _calibration(w: Words, found: Found) -> str:
    rows = []
    for name, way, scene, figure, recorded, digits in _RECORDED:
        c = cell(found, way, scene)
        simulated = None if c is None else float(getattr(c, figure))
        numbers = [f"{recorded:.{digits}f}", seconds(simulated, digits)]
        rows.append([*w[name].split(";"), *numbers])
    return table(w["calibration_heads"].split(";"), rows, text_columns=2)


def _comparison(w: Words, found: Found) -> str:
    rows = []
    for scene in SCENES:
        before, through = (cell(found, way, scene.name) for way in (V1.name, PROXIED.name))
        late = before.first_content / through.first_content_p90 if before and through else None
        rows.append(
            [
                w[f"scene_{scene.name}"],
                seconds(before.first_content if before else None),
                *(times(times_better(found, way, scene.name)) for way in _WAYS[1:]),
                times(late),
            ]
        )
    return table(w["comparison_heads"].split(";"), rows)


def _levers(w: Words, found: Found) -> str:
    heads = w["levers_heads"].format(scenes=";".join(w[f"column_{s.name}"] for s in SCENES))
    on = [cell(found, PROXIED.name, scene.name) for scene in SCENES]
    rows = [
        [
            w["lever_none"],
            *(seconds(c.first_content if c else None) for c in on),
            seconds(overall_p90(found, PROXIED.name)),
            "–",
        ]
    ]
    for share in shares(found):
        cells = [
            "–" if first is None or lost is None else f"{first:.2f} ({lost:+.2f})"
            for first, lost in zip(share.first_content, share.lost, strict=True)
        ]
        last = [seconds(share.p90), percent(share.of_saving)]
        rows.append([w[f"lever_{share.lever}"], *cells, *last])
    return table(heads.split(";"), rows)


def _goals(w: Words, found: Found) -> str:
    return goal_table(w, (_goal(w, goal) for goal in goals(found)))


def _goal(w: Words, goal: Goal) -> tuple[str, str, str, bool]:
    name = w[f"goal_{goal.kind}"].format(scene=w[f"scene_{goal.scene}"])
    match goal.kind:
        case "first_content":
            return name, f"≤ {goal.expected:g} s", f"{goal.actual:.2f} s", goal.reached
        case "times":
            return name, f"≥ {goal.expected:g} ×", times(goal.actual), goal.reached
        case _:
            return name, f"≥ {percent(goal.expected, 0)}", percent(goal.actual, 0), goal.reached


def _stages(w: Words, found: Found) -> str:
    rows = []
    for scene in SCENES:
        for way in _WAYS:
            s = split(found, way, scene.name)
            parts = (
                [] if s is None else [s.to_headers, s.to_first_token, s.to_first_content, s.to_end]
            )
            numbers = [*map(seconds, parts), seconds(sum(parts))] if parts else ["–"] * 5
            rows.append([w[f"scene_{scene.name}"], w[f"way_{way}"], *numbers])
    return table(w["stages_heads"].split(";"), rows, text_columns=2)


def _proxy(w: Words, found: Found) -> str:
    rows = []
    for scene in SCENES:
        told = said(found, scene.name)
        if told is not None:
            rows.append(
                [
                    w[f"scene_{scene.name}"],
                    ", ".join(told.served),
                    str(told.exchanges),
                    str(told.attempts),
                    f"{told.overhead:.2f}",
                    f"{told.connection:.2f}",
                ]
            )
    return table(w["proxy_heads"].split(";"), rows, text_columns=2)


def _analysis(w: Words, found: Found) -> Iterator[str]:
    thought, waited = split(found, V1.name, "medium"), split(found, V2.name, "long")
    without_history = cell(found, V2.name, "medium")
    if thought:
        total = thought.to_headers + thought.to_first_token + thought.to_first_content
        yield w["analysis_thinking"].format(thinking=thought.to_first_content, total=total)
    if waited and without_history:
        total = waited.to_headers + waited.to_first_token
        yield w["analysis_line"].format(
            queue=waited.to_headers, total=total, without=without_history.first_content
        )
    yield from _rest(w, found)
    yield from _even(w, found)
    p90 = overall_p90(found, PROXIED.name)
    if p90 is not None:
        yield w["analysis_p90"].format(p90=p90)
    missed = [_goal(w, goal)[0] for goal in goals(found) if not goal.reached]
    if missed:
        yield w["analysis_missed"].format(goals="; ".join(missed))


def _rest(w: Words, found: Found) -> Iterator[str]:
    """Of the slowest scene through the proxy."""
    known = [(c.first_content, s.name) for s in SCENES if (c := cell(found, PROXIED.name, s.name))]
    if not known:
        return
    scene = max(known)[1]
    parts, own = split(found, PROXIED.name, scene), said(found, scene)
    if parts and own:
        yield w["analysis_rest"].format(
            scene=w[f"scene_{scene}"],
            queue=parts.to_headers,
            prompt=parts.to_first_token,
            thinking=parts.to_first_content,
            own=own.overhead,
        )


def _even(w: Words, found: Found) -> Iterator[str]:
    """How much of the goal rests on what was assumed of V1."""
    needed = [least_thinking(found, name) for name in ("short", "sentence")]
    assumed = [split(found, V1.name, name) for name in ("short", "sentence")]
    if needed[0] is None or needed[1] is None or assumed[0] is None or assumed[1] is None:
        return
    yield w["analysis_even"].format(
        goal=GOAL_TIMES_SOONER,
        short=needed[0],
        sentence=needed[1],
        short_now=assumed[0].to_first_content,
        sentence_now=assumed[1].to_first_content,
    )


def _next(w: Words, found: Found) -> Iterator[str]:
    read = split(found, PROXIED.name, "long")
    yield w["next_real"]
    if read is not None:
        yield w["next_history"].format(prompt=read.to_first_token)
    yield w["next_quality"]
    yield w["next_near"]


def as_json(found: Found) -> str:
    """All figures, every sample and the proxies' logs; numbers of samples are not scaled back."""
    ways = [*_WAYS, *(without(share.lever).name for share in shares(found))]

    def told(value: Any) -> Any:
        return None if value is None else asdict(value)

    report = {
        "glm_proxy": __version__,
        "suite": "lumosai",
        "simulated": True,
        "conditions": asdict(found.conditions),
        "scenes": {s.name: {way: told(cell(found, way, s.name)) for way in ways} for s in SCENES},
        "levers": [asdict(share) for share in shares(found)],
        "goals": [asdict(goal) for goal in goals(found)],
        "stages": {s.name: {w: told(split(found, w, s.name)) for w in _WAYS} for s in SCENES},
        "samples": [asdict(sample) for sample in found.samples],
        "access_log": {way: list(lines) for way, lines in found.lines.items()},
    }
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
