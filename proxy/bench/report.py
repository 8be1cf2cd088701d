"""The report of a run: Markdown for people, JSON for programs. No key is in either."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from proxy import __version__
from proxy.bench.figures import STAGES, Stage, Summary, goals, outcomes, summarise, times_sooner
from proxy.bench.plan import Plan
from proxy.bench.run import Run


def markdown(plan: Plan, found: Run) -> str:
    """The whole report."""
    parts = [
        "# Stages of the first token",
        _settings(plan),
        _table(plan, found),
        _outcomes(plan, found),
        _goals(plan, found),
    ]
    if found.stopped:
        parts.append(f"**Stopped early:** {found.stopped}")
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(plan: Plan, found: Run) -> str:
    """Everything, every sample included."""
    names = [way.name for way in plan.ways]
    settings = asdict(plan)
    del settings["api_key"]
    stages = {
        name: {stage.name: _as_dict(summarise(found.samples, name, stage.name)) for stage in STAGES}
        for name in names
    }
    report = {
        "glm_proxy": __version__,
        "settings": settings,
        "stages": stages,
        "outcomes": {name: dict(outcomes(found.samples, name)) for name in names},
        "goals": [asdict(goal) for goal in goals(found.samples, names)],
        "stopped": found.stopped,
        "samples": [asdict(sample) for sample in found.samples],
    }
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _as_dict(summary: Summary | None) -> dict[str, float] | None:
    return None if summary is None else asdict(summary)


def _settings(plan: Plan) -> str:
    connections = "a new connection each" if plan.fresh_connections else "connections kept"
    lines = [f"- {way.name}: {way.base_url}" for way in plan.ways]
    lines.append(f"- model {plan.model}, at most {plan.max_tokens} tokens, {plan.dialect_name}")
    lines.append(
        f"- {plan.requests} requests each way, {plan.concurrency} at a time, {connections},"
        f" in random order (seed {plan.seed})"
    )
    lines.append(f"- glm-proxy {__version__}, aiohttp client, HTTP/1.1")
    return "\n".join(lines)


def _table(plan: Plan, found: Run) -> str:
    if not any(sample.complete for sample in found.samples):
        return ""
    compared = len(plan.ways) > 1
    heads = ["stage"]
    for way in plan.ways:
        heads += [f"{way.name} p50", "p90", "p95", "p99"]
    heads += ["times sooner (p50)"] if compared else []
    lines = [_line(heads), "|---|" + "--:|" * (len(heads) - 1)]
    for stage in STAGES:
        summaries = [summarise(found.samples, way.name, stage.name) for way in plan.ways]
        if any(summaries):
            cells = [cell for summary in summaries for cell in _cells(summary)]
            lines.append(_line([stage.title, *cells, *_ratio(stage, summaries, compared)]))
    lines += ["", "Complete requests only; percentiles are measured values (nearest rank)."]
    return "\n".join(lines)


def _cells(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["-"] * 4
    return [_number(x) for x in (summary.p50, summary.p90, summary.p95, summary.p99)]


def _ratio(stage: Stage, summaries: list[Summary | None], compared: bool) -> list[str]:
    if not compared:
        return []
    sooner = times_sooner(summaries[0], summaries[1]) if stage.is_time else None
    return ["-" if sooner is None else f"{sooner:.2f}"]


def _outcomes(plan: Plan, found: Run) -> str:
    lines = [_line(["way", "requests", "complete", "failed", "answered by", "failures"])]
    lines.append("|---|--:|--:|--:|---|---|")
    for way in plan.ways:
        samples = [sample for sample in found.samples if sample.way == way.name]
        complete = sum(sample.complete for sample in samples)
        models = Counter(sample.model for sample in samples if sample.model)
        lines.append(
            _line(
                [
                    way.name,
                    str(len(samples)),
                    str(complete),
                    str(len(samples) - complete),
                    ", ".join(sorted(models)) or "-",
                    _failures(found, way.name) or "-",
                ]
            )
        )
    return "\n".join(lines)


def _failures(found: Run, way: str) -> str:
    """Each kind of failure with its number and its first detail."""
    first: dict[str, str] = {}
    for sample in found.samples:
        if sample.way == way and not sample.complete:
            first.setdefault(sample.outcome, sample.detail or "")
    counts = outcomes(found.samples, way)
    return "; ".join(f"{counts[name]} x {name}: {detail}" for name, detail in first.items())


def _goals(plan: Plan, found: Run) -> str:
    judged = goals(found.samples, [way.name for way in plan.ways])
    return "\n".join(
        f"- {'reached' if goal.reached else 'not reached'}: {goal.text}: {_number(goal.measured)}"
        for goal in judged
    )


def _number(value: float) -> str:
    """Three decimals; four where the first three would say little, one where they say too much."""
    if value >= 100:
        return f"{value:,.1f}"
    return f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
