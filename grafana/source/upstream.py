"""Upstream: every endpoint and model, from the connection to the first content."""

from __future__ import annotations

from grafana.source import slo
from grafana.source.connections import connections
from grafana.source.dashboard import UPSTREAM, Dashboard, Row
from grafana.source.panels import (
    TARGET,
    Column,
    Panel,
    Query,
    heatmap,
    lines,
    table,
    timeline,
)
from grafana.source.promql import (
    CANDIDATE,
    ENDPOINT,
    PLACE,
    RANGE,
    ROUTE,
    a_minute,
    heat,
    highest,
    quantile,
    rate,
    ratio,
    select,
    total,
    within,
)

_CONTENT = "glm_proxy_first_content_seconds"


def dashboard() -> Dashboard:
    return Dashboard(
        UPSTREAM,
        "Which endpoint and model is slow or failing: stages, attempts, connections, limits.",
        (
            Row("Endpoints and models", (_candidates(),)),
            Row("First content", (_heat(), _first_content())),
            Row("Stages", _stages()),
            Row("Attempts", (_attempts(), _failovers(), _retries(), _codes())),
            Row("Breakers and places", (_breakers(), _limits(), _waiting(), _wait(), _refused())),
            Row("Choice and prediction", (_choices(), _prediction(), _ratio())),
            Row("Connections", connections()),
        ),
    )


def _candidates() -> Panel:
    attempts = "glm_proxy_attempts_total"
    bad = 'outcome!~"completed|cancelled|client_gone"'
    every = rate(attempts, PLACE, by=PLACE, window=RANGE)
    failed = rate(attempts, PLACE, bad, by=PLACE, window=RANGE)
    return table(
        "Endpoints and models",
        "All of the time shown, a line for each endpoint and model. Attempts that a faster one or"
        " a leaving client ended are not failed ones. One bad line: that candidate. All bad: the"
        " network, or the proxy.",
        {"endpoint": "Endpoint", "served_model": "Model"},
        (
            Column("Attempts", every, "reqps"),
            Column(
                "Failed",
                ratio(f"({failed} or 0 * {every})", every),
                "percentunit",
                (("green", None), ("orange", 0.01), ("red", 0.05)),
            ),
            Column("Within 5 s", slo.share(RANGE, by=PLACE), "percentunit", slo.SHARES),
            Column(
                "First content p50",
                quantile(0.5, _CONTENT, CANDIDATE, by=PLACE, window=RANGE),
                "s",
                TARGET,
            ),
            Column(
                "First content p95",
                quantile(0.95, _CONTENT, CANDIDATE, by=PLACE, window=RANGE),
                "s",
                TARGET,
            ),
        ),
    )


def _heat() -> Panel:
    return heatmap(
        "First content: heat map",
        "How many exchanges had their first content after how many seconds. Two bands: the"
        " upstream answers some at once and queues the others; hedging helps there. One band that"
        " rises: it is slow for all.",
        heat(_CONTENT, CANDIDATE),
        exemplar=True,
    )


def _first_content() -> Panel:
    return lines(
        "First content p95 by endpoint and model",
        "The target is 5 s (dashed). One line above the others: send less there, or give the route"
        " another candidate.",
        "s",
        Query(
            quantile(0.95, _CONTENT, CANDIDATE, by=PLACE),
            "{{endpoint}} {{served_model}}",
            exemplar=True,
        ),
        steps=TARGET,
        width=12,
        height=9,
        none="no exchanges",
    )


_STAGES = {
    "connect": "until the request was handed to a connection. Above some ms: none was free or warm"
    " (Connections below).",
    "upstream_headers": "from the request's sending to the response headers. GLM sends them when"
    " it takes the request up, so this is mostly its queue.",
    "first_byte": "from the headers to the first body bytes. Long: somebody between us holds the"
    " body back.",
    "first_token": "from the first bytes to the first model token of any kind. Long: the answer was"
    " opened early and the model had not begun.",
    "reasoning": "from the commit to the first visible token. Long: the model thinks before it"
    " answers; a route can switch that off.",
    "stream": "from the first content to the end: the length of the answers, and the model's pace.",
}


def _stages() -> tuple[Panel, ...]:
    return tuple(
        lines(
            f"{stage}: p95",
            f"Seconds in the stage {stage}: {meaning}",
            "s",
            Query(
                quantile(
                    *(0.95, "glm_proxy_stage_seconds", CANDIDATE, f'stage="{stage}"'), by=PLACE
                ),
                "{{endpoint}} {{served_model}}",
                exemplar=True,
            ),
            height=7,
            none="no exchanges",
        )
        for stage, meaning in _STAGES.items()
    )


def _attempts() -> Panel:
    return lines(
        "Attempts by outcome",
        "Requests to the upstream per second and how they ended. cancelled: a faster attempt won."
        " Anything but completed and cancelled is worth a look;"
        " choose a model above to see its own.",
        "reqps",
        Query(
            rate("glm_proxy_attempts_total", PLACE, by=("endpoint", "outcome")),
            "{{endpoint}} {{outcome}}",
        ),
        width=12,
        stack="normal",
        none="no attempts",
    )


def _failovers() -> Panel:
    by = ("route", "from_endpoint", "to_endpoint")
    return lines(
        "Failovers",
        "Attempts per minute at the next candidate after one had failed, from its endpoint to"
        " theirs. A steady line: the first candidate is down and each exchange finds out anew.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_failovers_total", ("route", "from_endpoint"), by=by)),
            "{{route}}: {{from_endpoint}} to {{to_endpoint}}",
        ),
        width=12,
        none="none",
    )


def _retries() -> Panel:
    return lines(
        "Retries by code",
        "Decisions per minute about failed attempts, by the failure's code and what followed."
        " denied_budget: too many fail for retries to be safe. limit: the key's limit was hit;"
        " admission learns from it.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_retries_total", ENDPOINT, by=("code", "decision"))),
            "{{code}}: {{decision}}",
        ),
        width=12,
        none="none",
    )


def _codes() -> Panel:
    return lines(
        "The upstream's own error codes",
        "Exchanges per minute in which the upstream gave a code of its own: 1302 and 1303 are rate"
        " limits, 1305 overload, 1113 no balance, 1000 to 1004 the key.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_upstream_errors_total", ENDPOINT, by=("endpoint", "code"))),
            "{{endpoint}} {{code}}",
        ),
        width=12,
        none="none",
    )


def _breakers() -> Panel:
    half, opened = (
        highest(select("glm_proxy_breaker_state", PLACE, f'state="{state}"'), by=PLACE)
        for state in ("half_open", "open")
    )
    return timeline(
        "Breakers",
        "Whether a candidate is asked: closed (yes), half open (one attempt may try it), open (left"
        " out after failures in a row). Open for long: look at its attempts above.",
        Query(f"2 * {opened} + {half}", "{{endpoint}} {{served_model}}"),
        (("closed", "green"), ("half open", "orange"), ("open", "red")),
    )


def _limits() -> Panel:
    return lines(
        "Learned limits and places taken",
        "How many requests the keys may have in flight, as far as the upstream has shown it, and"
        " how many they have. Taken at the limit: more keys, or another candidate. No limit is"
        " shown while none is known.",
        "short",
        Query(
            total(select("glm_proxy_admission_in_flight", PLACE), by=PLACE),
            "{{endpoint}} {{served_model}} taken",
        ),
        Query(
            total(select("glm_proxy_admission_limit", PLACE), by=PLACE),
            "{{endpoint}} {{served_model}} limit",
        ),
        width=12,
        none="nothing asked yet",
    )


def _waiting() -> Panel:
    return lines(
        "Waiting for a place, keys at rest",
        "Requests that wait for a place of their key, and keys left alone for a while because the"
        " upstream turned them away. All keys at rest: nothing can be sent there.",
        "short",
        Query(
            total(select("glm_proxy_admission_waiting", PLACE), by=PLACE),
            "{{endpoint}} {{served_model}} waiting",
        ),
        Query(
            highest(select("glm_proxy_admission_resting_keys", PLACE), by=PLACE),
            "{{endpoint}} {{served_model}} keys at rest",
        ),
        none="nothing asked yet",
    )


def _wait() -> Panel:
    return lines(
        "Wait for a place",
        "Seconds that an attempt waited for a place of its key, of those that waited. It is part of"
        " the first content: near 5 s, another candidate would be faster.",
        "s",
        *(
            Query(
                quantile(share, "glm_proxy_admission_wait_seconds", PLACE),
                f"p{share * 100:g}",
            )
            for share in (0.5, 0.95)
        ),
        steps=TARGET,
        none="none waited",
    )


def _refused() -> Panel:
    by = ("route", "endpoint")
    return lines(
        "Refused for want of a place",
        "Exchanges per minute that were answered 429 because the wait was, or would have been, too"
        " long. More keys, more candidates, or a longer admission wait.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_admission_refused_total", by, by=by)),
            "{{route}} {{endpoint}}",
        ),
        none="none",
    )


def _choices() -> Panel:
    return lines(
        "Why the first candidate was chosen",
        "Choices per second, by reason. fastest: none is expected to meet the target. explore: too"
        " little is known of it. only: nothing else may be asked.",
        "reqps",
        Query(rate("glm_proxy_choices_total", ROUTE, by=("reason",)), "{{reason}}"),
        stack="normal",
        none="no exchanges",
    )


def _prediction() -> Panel:
    predicted = "glm_proxy_predicted_first_content_seconds"
    return lines(
        "First content, predicted and actual",
        "What was expected of the candidate chosen first, and what exchanges had in the end, p50"
        " and p95. Predicted is meant to be a little above: most should come in time.",
        "s",
        *(
            Query(
                quantile(share, histogram, CANDIDATE),
                f"{name} p{share * 100:g}",
                exemplar=share == 0.5 and name == "actual",
            )
            for name, histogram in (("predicted", predicted), ("actual", _CONTENT))
            for share in (0.5, 0.95)
        ),
        steps=TARGET,
        none="no exchanges",
    )


def _ratio() -> Panel:
    ratios = "glm_proxy_prediction_ratio"
    kept = rate(f"{ratios}_bucket", CANDIDATE, within("1.0"), by=PLACE)
    every = rate(f"{ratios}_count", CANDIDATE, by=PLACE)
    return lines(
        "Predictions that were kept",
        "Share of first attempts whose first content came no later than predicted. About 90 % is"
        " right; far below, the upstream has just become slower than it was.",
        "percentunit",
        Query(ratio(kept, every), "{{endpoint}} {{served_model}}"),
        most=1,
        none="no exchanges",
    )
