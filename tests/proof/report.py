"""What a proof found, as Markdown for people and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from proxy.cli.suite.machine import describe
from tests.proof.agreement import Row
from tests.proof.faults import KEY_REFUSED, KINDS
from tests.proof.judge import AS_IT_IS, BY_THE_FILE, WITHOUT_COMPARISON, Verdict
from tests.proof.run import Found


def markdown(found: Found) -> str:
    """The whole report."""
    return "\n\n".join(
        (
            "# Proof: every dashboard and rule query against a real Prometheus",
            _summary(found),
            "## Queries",
            _queries(found),
            "## Agreement",
            _AGREEMENT,
            _rows(found.rows),
            "## Load",
            _load(found),
            "## Every query",
            _all(found.answers.verdicts),
            "## Rules as Prometheus evaluated them",
            _rules(found.rules),
            "",
        )
    )


_AGREEMENT = (
    "The client's figure is of its own clock and reader. Beside it stand the same values seen"
    " through the histogram's buckets (what the buckets alone do to a percentile) and what"
    " Prometheus says at the end of the run. Times in seconds; percentiles are to agree within 5 %,"
    " counts within 1 % or 2. In a run much shorter than usual the buckets alone may do more."
)


def as_json(found: Found) -> bytes:
    """The same, with every exchange that the client made."""
    told = {
        "exchanges": len(found.seen),
        "took_s": round(found.took, 1),
        "failed": found.failed,
        "queries": [_verdict(one) for one in found.answers.verdicts],
        "agreement": [_row(row) for row in found.rows],
        "rules": [
            {"group": r["group"], "name": r["name"], "health": r["health"]} for r in found.rules
        ],
        "exemplars": found.exemplars,
        "samples": [
            {
                "id": one.shot.id,
                "route": one.shot.route,
                "fault": one.shot.fault,
                "leave": one.shot.leave and one.shot.leave.stage,
                "outcome": one.outcome,
                "status": one.status,
                "ttfb_s": one.ttfb,
                "ttft_s": one.ttft,
                "first_content_s": one.first_content,
                "duration_s": one.duration,
                "events": one.reading.events,
                "tokens": one.reading.tokens,
            }
            for one in found.seen
        ],
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2)


def summary(found: Found) -> str:
    """Some lines for the terminal: what failed, by name."""
    lines = [
        f"{len(found.seen)} exchanges, {_judgements(found)}",
        f"{sum(row.agrees for row in found.rows if row.judged)} of"
        f" {sum(row.judged for row in found.rows)} figures agree",
    ]
    for one in found.answers.unanswered:
        lines.append(f"no data: {one.query.file}: {one.query.place}: {one.error or one.asked}")
    lines += [f"unhealthy: {r['group']} · {r['name']}: {r['lastError']}" for r in found.unhealthy]
    for row in found.rows:
        if row.failed:
            lines.append(f"apart: {row.name}: client {row.client}, Prometheus {row.prometheus}")
    return "\n".join(lines)


def _summary(found: Found) -> str:
    scraped = ", ".join(f"{one['lastScrapeDuration'] * 1000:.0f} ms" for one in found.scrapes)
    judged = [row for row in found.rows if row.judged]
    failing = sum(row.failed for row in judged)
    return "\n".join(
        (
            f"- {len(found.seen)} exchanges through two proxies before two simulated endpoints in"
            f" {found.span.end - found.span.start:.0f} s; Prometheus scraped each"
            f" {found.options.scrape_every} s"
            f" (the last scrapes took {scraped}).",
            f"- {_judgements(found)}.",
            f"- Rules: {len(found.rules)}, of which {len(found.unhealthy)} are not healthy.",
            f"- Agreement: {len(judged)} figures judged, {failing} apart.",
            f"- The machine: {describe()}; {_share(found.busy)} of it was in use,"
            f" {_share(found.own)} by proxies, upstream and client. The client's own timers were"
            f" up to {found.late * 1000:.0f} ms late (p99): no figure of it is more exact.",
            f"- Exemplars of first content: {found.exemplars}.",
            f"- `$__rate_interval` stands for {found.span.rate:g} s, and rules are evaluated each"
            f" {found.options.rules_every} s in place of their own intervals: a run has minutes.",
        )
    )


def _share(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


_HOW = {
    AS_IT_IS: "have data as written",
    WITHOUT_COMPARISON: "alerts have it without their comparison (silent while all is well)",
    BY_THE_FILE: "are lists that the file holds itself",
}


def _judgements(found: Found) -> str:
    judged = Counter(one.judged for one in found.answers.verdicts)
    told = ", ".join(f"{count} {_HOW.get(name, name)}" for name, count in judged.most_common())
    return f"{judged.total()} queries asked: {told}"


def _queries(found: Found) -> str:
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for one in found.answers.verdicts:
        groups.setdefault((one.query.file, one.query.kind), []).append(one)
    rows = [
        (file, kind, len(all_), sum(one.passed for one in all_), sum(one.samples for one in all_))
        for (file, kind), all_ in groups.items()
    ]
    table = _table(("file", "kind", "queries", "answered", "samples"), rows)
    missing = [
        f"- **{one.query.file}**, {one.query.place}: {one.error or 'nothing'} `{_flat(one.asked)}`"
        for one in found.answers.unanswered
    ]
    return "\n\n".join((table, "\n".join(missing) or "Every query is answered."))


def _agrees(row: Row) -> str:
    if not row.judged:
        return row.note
    return ", ".join(filter(None, ("yes" if row.agrees else "**no**", row.note)))


def _rows(rows: Sequence[Row]) -> str:
    told = [
        (
            row.name,
            row.count,
            _number(row.client),
            "" if row.bucketed is None else _number(row.bucketed),
            _number(row.prometheus),
            "" if row.apart is None else f"{row.apart:+.1%}",
            _agrees(row),
        )
        for row in sorted(rows, key=lambda row: (not row.failed, not row.judged))
    ]
    head = ("figure", "n", "client", "client, in buckets", "Prometheus", "apart", "agrees")
    return _table(head, told)


def _load(found: Found) -> str:
    routes = Counter((one.shot.route, one.outcome) for one in found.seen)
    names = sorted({route for route, _ in routes})
    ends = ("completed", "cut", "refused", "left", "nothing")
    table = _table(
        ("route", *ends), [(name, *(routes[name, end] for end in ends)) for name in names]
    )
    played = Counter(one.shot.fault for one in found.seen if one.shot.fault)
    all_ = [kind.name for kind in (*KINDS, KEY_REFUSED)]
    never = [name for name in all_ if not played[name]]
    faults = ", ".join(f"{name} {played[name]}" for name in all_)
    missing = f" Never played: {', '.join(never)}." if never else ""
    return f"{table}\n\nFaults, and how often each was asked for: {faults}.{missing}"


def _all(verdicts: Sequence[Verdict]) -> str:
    rows = [
        (
            one.query.file,
            one.query.kind,
            one.query.place,
            f"`{_flat(one.asked)}`",
            one.series,
            one.samples,
            one.judged,
        )
        for one in verdicts
    ]
    return _table(("file", "kind", "place", "query", "series", "samples", "judged"), rows)


def _rules(rules: Sequence[dict[str, Any]]) -> str:
    rows = [(r["group"], r["name"], r["type"], r.get("state", ""), r["health"]) for r in rules]
    return _table(("group", "rule", "type", "state at the end", "health"), rows)


def _verdict(one: Verdict) -> dict[str, Any]:
    return {
        "file": one.query.file,
        "kind": one.query.kind,
        "place": one.query.place,
        "query": one.asked,
        "series": one.series,
        "samples": one.samples,
        "judged": one.judged,
        "error": one.error,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "figure": row.name,
        "n": row.count,
        "client": row.client,
        "client_in_buckets": row.bucketed,
        "prometheus": row.prometheus,
        "apart": row.apart,
        "judged": row.judged,
        "agrees": row.agrees,
    }


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
