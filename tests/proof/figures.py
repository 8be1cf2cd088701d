"""Which figures are compared: the client's, the simulators', and Prometheus' of the same thing.

Prometheus is asked for what it knows at the end: the counters of both proxies began at zero when
the first exchange was sent, so their values are those of the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.proof.agreement import Row, counted, timed
from tests.proof.client import Seen
from tests.proof.prometheus import Prometheus

SHARES = (0.5, 0.95)
_NOT_SENT = "upstream_connect_failed|upstream_connect_timeout|pool_exhausted|admission_refused"
"""Outcomes of attempts that no upstream can have seen."""

Attempts = dict[str, list[dict[str, Any]]]
"""The simulators' ledgers, by the exchange's id."""
Values = Callable[[Seen], Iterable[float | None]]


@dataclass(frozen=True, slots=True)
class Time:
    """A time that both sides know."""

    name: str
    metric: str
    labels: str
    values: Values
    of: Callable[[Seen], bool]
    by_route: bool = False


def _chat_stream(seen: Seen) -> bool:
    return seen.shot.chat and seen.shot.stream


def _unmerged(seen: Seen) -> bool:
    """Left out are told ones (their text is merged, and the marks are of the upstream's events)
    and folded ones (they are streams upstream alone)."""
    return _chat_stream(seen) and seen.shot.route != "told"


def _from_upstream(seen: Seen) -> bool:
    """What the proxy says by itself has no first byte in its metrics; the upstream's has an id, or
    the status of a stream that began before the upstream's did."""
    return "x-log-id" in seen.headers or (seen.shot.stream and seen.status == 200)


TIMES = (
    Time(
        "first content",
        "glm_proxy_first_content_seconds",
        'kind="chat",stream="true",route!="told"',
        lambda seen: (seen.first_content,),
        _unmerged,
        by_route=True,
    ),
    Time(
        "TTFT",
        "glm_proxy_time_to_first_token_seconds",
        'kind="chat",stream="true",route!="told"',
        lambda seen: (seen.ttft,),
        _unmerged,
    ),
    Time(
        "TTFB",
        "glm_proxy_time_to_first_byte_seconds",
        "",
        lambda seen: (seen.ttfb,),
        _from_upstream,
        by_route=True,
    ),
    Time(
        "duration",
        "glm_proxy_duration_seconds",
        "",
        lambda seen: (seen.duration,),
        lambda seen: True,
        by_route=True,
    ),
    Time(
        "event gap",
        "glm_proxy_event_gap_seconds",
        'route!~"told|folded"',
        lambda seen: seen.reading.gaps,
        _unmerged,
    ),
    Time(
        "largest gap",
        "glm_proxy_event_gap_max_seconds",
        'route!~"told|folded"',
        lambda seen: (max(seen.reading.gaps, default=None),),
        _unmerged,
    ),
)


async def figures(
    prometheus: Prometheus, moment: float, seen: Sequence[Seen], ledger: Sequence[dict[str, Any]]
) -> list[Row]:
    """Every row of the table."""
    rows = []
    for time in TIMES:
        rows += await _time(prometheus, moment, time, seen)
    entries = _attempts(seen, ledger)
    rows += await _counts(prometheus, moment, seen)
    rows += await _tokens(prometheus, moment, seen, entries)
    rows += await _upstream(prometheus, moment, seen, entries)
    return rows


async def _time(
    prometheus: Prometheus, moment: float, time: Time, seen: Sequence[Seen]
) -> list[Row]:
    chosen = [one for one in seen if time.of(one)]
    rows = await _percentiles(prometheus, moment, time, chosen, time.labels, time.name)
    if time.by_route:
        routes = Counter(one.shot.route for one in chosen)
        for route in sorted(routes):
            own = [one for one in chosen if one.shot.route == route]
            labels = ",".join(filter(None, (time.labels, f'route="{route}"')))
            name = f"{time.name}, route {route},"
            rows += await _percentiles(prometheus, moment, time, own, labels, name)
    return rows


async def _percentiles(
    prometheus: Prometheus,
    moment: float,
    time: Time,
    seen: Sequence[Seen],
    labels: str,
    name: str,
) -> list[Row]:
    values = [one for s in seen for one in time.values(s) if one is not None]
    if not values:
        return []
    buckets = f"sum by (le) ({time.metric}_bucket{{{labels}}})"
    bounds = [float(one.labels["le"]) for one in await prometheus.at(buckets, moment)]
    rows = []
    for share in SHARES:
        text = f"histogram_quantile({share}, {buckets})"
        found = await prometheus.number(text, moment)
        rows.append(timed(name, values, share, found, bounds))
    known = await prometheus.number(f"sum({time.metric}_count{{{labels}}})", moment)
    return [*rows, counted(f"{name} values", len(values), known)]


async def _by(prometheus: Prometheus, moment: float, text: str, label: str) -> dict[str, float]:
    found = await prometheus.at(f"sum by ({label}) ({text})", moment)
    return {one.labels.get(label, ""): one.points[0][1] for one in found}


async def _counts(prometheus: Prometheus, moment: float, seen: Sequence[Seen]) -> list[Row]:
    metric = "glm_proxy_exchanges_total"

    async def sum_of(text: str) -> float | None:
        return await prometheus.number(f"sum({text})", moment)

    rows = [counted("exchanges", len(seen), await sum_of(metric))]
    ends = Counter(one.outcome for one in seen)
    ends["refused"] += ends.pop("nothing", 0)
    for name, labels in _ENDS.items():
        rows.append(
            counted(f"exchanges, {name}", ends[name], await sum_of(f"{metric}{{{labels}}}"))
        )
    for label, of in _LABELS.items():
        told = await _by(prometheus, moment, metric, label)
        mine = Counter(of(one) for one in seen)
        for value in sorted(mine.keys() | told.keys()):
            rows.append(counted(f"exchanges, {label} {value}", mine[value], told.get(value)))
    cut = sum(one.outcome == "cut" and one.shot.stream for one in seen)
    rows.append(counted("streams cut", cut, await sum_of("glm_proxy_cuts_total")))
    rows.append(
        counted("clients that left", ends["left"], await sum_of("glm_proxy_client_leaves_total"))
    )
    for stage in ("reading", "waiting", "streaming"):
        mine_left = sum(_left_while(one, stage) for one in seen)
        said = await sum_of(f'glm_proxy_client_leaves_total{{stage="{stage}"}}')
        rows.append(counted(f"clients that left while {stage}", mine_left, said))
    return rows


_ENDS = {
    "completed": 'outcome="completed",status_class="2xx"',
    "cut": 'outcome!~"completed|client_gone",status_class="2xx"',
    "refused": 'outcome!="client_gone",status_class!="2xx"',
    "left": 'outcome="client_gone"',
}


def _status_class(seen: Seen) -> str:
    return "none" if seen.status is None else f"{seen.status // 100}xx"


_LABELS: dict[str, Callable[[Seen], str]] = {
    "route": lambda seen: seen.shot.route,
    "status_class": _status_class,
}


def _left_while(seen: Seen, stage: str) -> bool:
    leave = seen.shot.leave
    return seen.outcome == "left" and leave is not None and leave.stage == stage


def _attempts(seen: Sequence[Seen], ledger: Sequence[dict[str, Any]]) -> Attempts:
    """The upstream's requests by exchange."""
    ours = {one.shot.id for one in seen}
    entries: Attempts = defaultdict(list)
    for entry in ledger:
        if entry["id"] in ours:
            entries[entry["id"]].append(entry)
    return entries


async def _tokens(
    prometheus: Prometheus, moment: float, seen: Sequence[Seen], entries: Attempts
) -> list[Row]:
    """What the upstream billed: an answer that was shared is counted once."""
    tokens: Counter[str] = Counter()
    for one in seen:
        if one.shot.id in entries:
            tokens.update(one.reading.tokens)
    rows = []
    for kind, count in sorted(tokens.items()):
        said = await prometheus.number(f'sum(glm_proxy_tokens_total{{type="{kind}"}})', moment)
        rows.append(counted(f"tokens, {kind}", count, said))
    return rows


async def _upstream(
    prometheus: Prometheus, moment: float, seen: Sequence[Seen], entries: Attempts
) -> list[Row]:
    """What the simulators know: attempts, hedges, failovers, shared answers."""
    ours = {one.shot.id: one.shot for one in seen}
    hedged = sum(len(all_) - 1 for one, all_ in entries.items() if ours[one].route == "hedged")
    moved = sum(
        any(entry["endpoint"] == "south" for entry in all_)
        for one, all_ in entries.items()
        if ours[one].route == "failover"
    )
    at_hand = Counter(entry["endpoint"] for all_ in entries.values() for entry in all_)

    async def sum_of(text: str) -> float | None:
        return await prometheus.number(f"sum({text})", moment)

    rows = []
    for endpoint, count in sorted(at_hand.items()):
        text = f'glm_proxy_attempts_total{{endpoint="{endpoint}",outcome!~"{_NOT_SENT}"}}'
        rows.append(counted(f"attempts at {endpoint}", count, await sum_of(text), "by its ledger"))
    said = await sum_of('glm_proxy_hedges_total{route="hedged",result="started"}')
    rows.append(counted("hedges, route hedged", hedged, said, "by the ledgers"))
    said = await sum_of('glm_proxy_failovers_total{route="failover"}')
    rows.append(counted("failovers, route failover", moved, said, "by the ledgers"))
    said = await sum_of('glm_proxy_shared_answers_total{route="shared"}')
    rows.append(_shared([one for one in seen if one.shot.id not in entries], said))
    return rows


def _shared(without: Sequence[Seen], said: float | None) -> Row:
    """Of those for which nothing was asked: a refused one may have shared another's error, or had
    no connection of its own."""
    status = Counter(one.status == 200 for one in without if one.shot.route == "shared")
    row = counted("answers shared", status[True], said, "answered without an attempt")
    return replace(row, slack=row.slack + status[False]) if (said or 0) > status[True] else row
