"""Overview: are first tokens under 5 s, where does the time go, whose fault, what did we do."""

from __future__ import annotations

from grafana.source import slo
from grafana.source.dashboard import OVERVIEW, PROCESS, STREAMS, UPSTREAM, Dashboard, Row
from grafana.source.panels import TARGET, Panel, Query, Steps, bars, lines, stat
from grafana.source.promql import (
    CANDIDATE,
    ENDPOINT,
    PLACE,
    RANGE,
    RATE,
    ROUTE,
    a_minute,
    quantile,
    rate,
    ratio,
    select,
    total,
    zero,
)
from grafana.source.sides import BAD_ENDS, PARTIES
from proxy.observe.stages import NAMES as STAGES

_CHAT = 'kind="chat"'
_WINDOWS = ("5m", "1h", "6h")
_BURN: Steps = (("green", None), ("orange", 1.0), ("red", 4.0))


def dashboard() -> Dashboard:
    return Dashboard(
        OVERVIEW,
        "Are first tokens under 5 s, where does the time go, whose fault is it, and what did the"
        " proxy do about it.",
        (
            Row("At a glance", (_share(), _burn(), _bad_ends(), _content(), _waterfall(), _done())),
            Row("Are first tokens under 5 s?", (_burn_over_time(), _token(), _byte())),
            Row("Where does the time go?", (_stages(), _parties())),
            Row("Whose fault is it?", (_errors(),)),
            Row("What did the proxy do about it?", (_hedges(), _roles(), _second(), _rewrites())),
            Row(
                "Traffic, and the proxy's own part",
                (_traffic(), _in_flight(), _duration(), _overhead()),
            ),
        ),
    )


def _share() -> Panel:
    return stat(
        "First content within 5 s",
        "Share of chat exchanges whose first visible token, or tool-call delta, came within 5 s of"
        " the request, over the time shown. One that failed before (5xx) is a miss. The objective"
        " is 95 %. Below it: the other panels up here say where to look.",
        "percentunit",
        Query(slo.share(RANGE), "within 5 s", instant=True),
        steps=slo.SHARES,
        decimals=2,
        none="no exchanges",
    )


def _burn() -> Panel:
    return stat(
        "Error budget burn rate",
        "How many times faster than allowed the 5 % of misses are used up, over the last 5 minutes,"
        " hour and 6 hours. Up to 1 the objective is kept. High in all three: serious, and it goes"
        " on. High in 5m alone: it has just begun. High in 6h alone: it is over.",
        "none",
        *(Query(slo.burn(window), window, instant=True) for window in _WINDOWS),
        steps=_BURN,
        decimals=1,
        names=True,
        none="no exchanges",
    )


def _burn_over_time() -> Panel:
    return lines(
        "Burn rate over time",
        "The burn rate over the last 5 minutes, hour and 6 hours at each moment. Lines at 1 (the"
        " objective is just kept) and 4 (a budget of 30 days is gone in 8).",
        "none",
        *(Query(slo.burn(window), window) for window in _WINDOWS),
        steps=_BURN,
        height=9,
        none="no exchanges",
    )


def _content() -> Panel:
    return _spread(
        "First content",
        "Request received to first visible token or tool-call delta, chat. The target is 5 s"
        " (dashed). High while the first token is fast: the model reasons before it answers. Dots"
        " are single exchanges with their request id.",
        "glm_proxy_first_content_seconds",
    )


def _token() -> Panel:
    return _spread(
        "Time to first token (TTFT)",
        "Request received to the first model token of any kind, reasoning included, chat. High:"
        " the upstream queues, or we wait for a place or a second attempt.",
        "glm_proxy_time_to_first_token_seconds",
    )


def _byte() -> Panel:
    return _spread(
        "Time to first byte (TTFB)",
        "Request received to status and first bytes written to the client, chat. It says nothing"
        " of tokens: a route that commits early writes its status before it has any.",
        "glm_proxy_time_to_first_byte_seconds",
    )


def _spread(title: str, description: str, histogram: str) -> Panel:
    shares = (0.5, 0.9, 0.95, 0.99)
    return lines(
        title,
        description,
        "s",
        *(
            Query(
                quantile(share, histogram, CANDIDATE, _CHAT),
                f"p{share * 100:g}",
                exemplar=share == shares[0],
            )
            for share in shares
        ),
        steps=TARGET,
        height=9,
        figures=True,
        none="no exchanges",
    ).leading_to("By endpoint and model", UPSTREAM)


def _stage_mean(stage: str, window: str) -> str:
    """Seconds of a stage per exchange, those without it included: so the stages add up."""
    stages = "glm_proxy_stage_seconds"
    seconds = rate(f"{stages}_sum", CANDIDATE, f'stage="{stage}"', window=window)
    exchanges = rate(f"{stages}_count", CANDIDATE, 'stage="receive"', window=window)
    return ratio(zero(seconds), exchanges)


def _waterfall() -> Panel:
    return bars(
        "Mean seconds in each stage",
        "How the mean chat exchange of the time shown spent its seconds, stage by stage from the"
        " top; they add up to its duration. receive, route, commit: the client and the proxy."
        " retry: attempts that led to nothing. admission: waiting for a place of the key."
        " connect: until a connection was had. upstream_headers to first_token: the upstream's"
        " queue and prompt. reasoning: tokens before the visible answer. stream: the answer.",
        "s",
        *(Query(_stage_mean(stage, RANGE), stage, instant=True) for stage in STAGES),
        height=9,
        none="no exchanges",
    )


def _stages() -> Panel:
    return lines(
        "Stages over time",
        "The same means over time, stacked in the stages' order from the bottom; the top is the"
        " mean duration. The band that grew is where to look.",
        "s",
        *(Query(_stage_mean(stage, RATE), stage) for stage in STAGES),
        width=12,
        height=9,
        stack="normal",
        none="no exchanges",
    ).leading_to("Stages by endpoint and model", UPSTREAM)


def _parties() -> Panel:
    return lines(
        "Whose time it was until the first content",
        "The same seconds without the answer's own stream, by who spent them. upstream: its queue"
        " and the prompt. reasoning: the model thinks first; a route can switch that off."
        " places: the key's limit. failed attempts: time lost before the attempt that answered."
        " connecting: no warm connection. proxy and client should be invisible.",
        "s",
        *(
            Query(" + ".join(_stage_mean(stage, RATE) for stage in stages), party)
            for party, stages in PARTIES.items()
        ),
        stack="percent",
        width=12,
        height=9,
        none="no exchanges",
    ).leading_to("By endpoint and model", UPSTREAM)


def _bad_ends() -> Panel:
    return lines(
        "Exchanges that did not complete, by whose fault",
        "Share of all exchanges. upstream: it, or the road to it, failed, and no other attempt"
        " could help. upstream said no: it answered 4xx; look at the key, its balance and limits,"
        " or at the request. proxy: a defect, no candidate left, a stop. places: the wait for one"
        " was too long. request: it was wrong, and will be again. client left: nobody's fault, but"
        " see whether they left because it was slow.",
        "percentunit",
        *(
            Query(
                ratio(
                    zero(rate("glm_proxy_exchanges_total", CANDIDATE, *matchers)),
                    rate("glm_proxy_exchanges_total", CANDIDATE),
                ),
                side,
            )
            for side, matchers in BAD_ENDS.items()
        ),
        width=12,
        height=6,
        stack="normal",
        none="no exchanges",
    ).leading_to("Clients that left, streams that were cut", STREAMS)


def _errors() -> Panel:
    return lines(
        "Errors by outcome",
        "Exchanges per minute that did not complete, by how they ended and the status that the"
        " client got. The names are the codes in logs and in error answers.",
        "cpm",
        Query(
            a_minute(
                rate(
                    *("glm_proxy_exchanges_total", CANDIDATE, 'outcome!="completed"'),
                    by=("outcome", "status_class"),
                )
            ),
            "{{outcome}} {{status_class}}",
        ),
        width=24,
        none="none",
    )


def _done() -> Panel:
    won = rate("glm_proxy_hedges_total", ROUTE, 'result="won"')
    started = rate("glm_proxy_hedges_total", ROUTE, 'result="started"')
    retries = rate("glm_proxy_retries_total", ENDPOINT, 'decision!~"denied.*"')
    failovers = rate("glm_proxy_failovers_total", ("route", "from_endpoint"))
    refused = rate("glm_proxy_admission_refused_total", ("route", "endpoint"))
    acts = {
        "hedges started": started,
        "hedges that won": won,
        "answers shared": rate("glm_proxy_shared_answers_total", ROUTE),
        "retries": retries,
        "failovers": failovers,
        "refused, no place": refused,
    }
    return lines(
        "What the proxy did",
        "Per minute: second attempts beside a late one and those that were faster, new attempts"
        " after a failure, those at another candidate, requests that read the answer to the same"
        " one in flight, and requests refused because the wait for a place was too long. All of"
        " them rising: the upstream is in trouble.",
        "cpm",
        *(Query(a_minute(zero(expr)), name) for name, expr in acts.items()),
        height=9,
    ).leading_to("Attempts and retries by code", UPSTREAM)


def _hedges() -> Panel:
    return lines(
        "Hedges by result",
        "Per minute: started, won (it was faster), lost, and denied with the reason."
        " denied_budget: the hedge budget is spent, more are late than hedging is meant for."
        " Many lost and few won: hedging begins too early.",
        "cpm",
        Query(a_minute(rate("glm_proxy_hedges_total", ROUTE, by=("result",))), "{{result}}"),
        width=12,
        none="none",
    )


def _second() -> Panel:
    attempts = "glm_proxy_attempts_total"
    completed = 'outcome="completed"'
    return stat(
        "Answers from a second attempt",
        "Share of completed attempts that were a retry, failover or hedge: exchanges that would"
        " have failed or come late without the proxy. Over the time shown.",
        "percentunit",
        Query(
            ratio(
                zero(rate(attempts, PLACE, 'role!="first"', completed, window=RANGE)),
                rate(attempts, PLACE, completed, window=RANGE),
            ),
            "second attempts",
            instant=True,
        ),
        decimals=2,
        none="no exchanges",
        height=8,
    )


def _roles() -> Panel:
    return lines(
        "Attempts by role",
        "Requests to the upstream per second: the first of an exchange, retries of the same"
        " candidate, failovers to the next, hedges. Only first ones is a quiet day.",
        "reqps",
        Query(rate("glm_proxy_attempts_total", PLACE, by=("role",)), "{{role}}"),
        width=12,
        stack="normal",
        none="no exchanges",
    )


def _rewrites() -> Panel:
    return lines(
        "Requests changed by a route",
        "Requests per second in which a route changed a field, by field; one that was taken away"
        " has a minus. Here is why another model answers, or why it no longer thinks.",
        "reqps",
        Query(rate("glm_proxy_rewrites_total", ROUTE, by=("change",)), "{{change}}"),
        width=18,
        none="none",
    )


def _traffic() -> Panel:
    return lines(
        "Traffic",
        "Exchanges that ended per second, by kind and class of the status.",
        "reqps",
        Query(
            rate("glm_proxy_exchanges_total", CANDIDATE, by=("kind", "status_class")),
            "{{kind}} {{status_class}}",
        ),
        width=12,
        stack="normal",
        none="no exchanges",
    )


def _in_flight() -> Panel:
    return lines(
        "In flight",
        "Exchanges that have begun and not ended. Growing while traffic does not: they take"
        " longer, or nobody ends them.",
        "short",
        Query(total(select("glm_proxy_exchanges_in_flight"), by=("instance",)), "{{instance}}"),
        width=12,
    )


def _duration() -> Panel:
    return lines(
        "Duration",
        "Request received to the end of its answer, chat, p50 and p95. It is mostly the length of"
        " the answers; it does not belong to the target.",
        "s",
        *(
            Query(
                quantile(share, "glm_proxy_duration_seconds", CANDIDATE, _CHAT),
                f"p{share * 100:g}",
                exemplar=share == 0.5,
            )
            for share in (0.5, 0.95)
        ),
        width=12,
        none="no exchanges",
    ).leading_to("What happens after the first token", STREAMS)


def _overhead() -> Panel:
    return lines(
        "What the proxy itself adds",
        "Seconds of ours before the first byte: request received to attempt sent, and first event"
        " to first write; waiting for a place and lost attempts are not in it. Above 10 ms: look"
        " at the event loop and at the CPU.",
        "s",
        *(
            Query(
                quantile(share, "glm_proxy_overhead_seconds", ROUTE, _CHAT),
                f"p{share * 100:g}",
                exemplar=share == 0.5,
            )
            for share in (0.5, 0.99)
        ),
        steps=(("green", None), ("red", 0.01)),
        width=12,
        none="no exchanges",
    ).leading_to("Event loop, CPU", PROCESS)
