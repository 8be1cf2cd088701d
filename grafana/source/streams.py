"""Streams: from the first token to the last. Gaps, stalls, cuts, leaves, tokens and their cost."""

from __future__ import annotations

from collections.abc import Mapping

from grafana.source.dashboard import STREAMS, UPSTREAM, Dashboard, Row
from grafana.source.panels import Panel, Query, heatmap, lines
from grafana.source.promql import (
    CANDIDATE,
    ENDPOINT,
    MODEL,
    PLACE,
    RATE,
    ROUTE,
    a_minute,
    heat,
    mean,
    over,
    quantile,
    rate,
    ratio,
    select,
    total,
    zero,
)

_GAP = "glm_proxy_event_gap_seconds"
_LONGEST = "glm_proxy_event_gap_max_seconds"
_COUNTED = ("input", "output")
"""Of a token's types those that exclude each other."""
_PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"


def dashboard() -> Dashboard:
    return Dashboard(
        STREAMS,
        "What happens after the first token: gaps, stalls, cuts, leaving clients, tokens and cost.",
        (
            Row("Between two events", (_gaps(), _heat(), _longest(), _stalls())),
            Row("How streams end", (_cuts(), _leaves(), _bursts(), _heartbeats())),
            Row("Tokens", (_speed(), _per_token(), _tokens(), _cached())),
            Row("What it costs", (_hedge_cost(), _hedge_share(), _lost(), _bytes())),
        ),
    )


def _gaps() -> Panel:
    return lines(
        "Event gap",
        "Seconds between two events of a stream, every gap of every stream. p50 is the model's"
        " pace; p99 is what a reader feels as stuttering. p50 at 0: events come in bursts, look at"
        " the panel of that name.",
        "s",
        *(
            Query(quantile(share, _GAP, CANDIDATE), f"p{share * 100:g}")
            for share in (0.5, 0.9, 0.99)
        ),
        width=12,
        height=9,
        figures=True,
        none="no streams",
    )


def _heat() -> Panel:
    return heatmap(
        "Event gap: heat map",
        "How many gaps were how long. A second band far above the first: somebody holds events"
        " back and lets them go together.",
        heat(_GAP, CANDIDATE),
    )


def _longest() -> Panel:
    return lines(
        "Largest gap of a stream",
        "The longest silence within each stream. Beyond 5 s (dashed) a reader thinks that it hangs;"
        " at timeouts.idle it is cut.",
        "s",
        *(
            Query(quantile(share, _LONGEST, CANDIDATE), f"p{share * 100:g}")
            for share in (0.5, 0.95)
        ),
        Query(mean("glm_proxy_event_gap_mean_seconds", CANDIDATE), "mean gap"),
        steps=(("green", None), ("red", 5.0)),
        width=12,
        none="no streams",
    )


def _stalls() -> Panel:
    return lines(
        "Stalls",
        "Streams per minute that were silent for more than 1, 5 and 30 s at a time. They come from"
        " the upstream: see which endpoint and model on Upstream.",
        "cpm",
        *(
            Query(a_minute(f"({over(_LONGEST, bound, CANDIDATE)})"), f"over {name}")
            for bound, name in (("1.0", "1 s"), ("5.0", "5 s"), ("30.0", "30 s"))
        ),
        width=12,
        none="no streams",
    ).leading_to("By endpoint and model", UPSTREAM)


def _cuts() -> Panel:
    by = ("cause", "endpoint")
    return lines(
        "Cuts by cause",
        "Streams per minute that ended in the middle of an answer. The client was told by an error"
        " event; nothing is glued to half an answer. idle_timeout: it fell silent. upstream_cut and"
        " upstream_reset: it hung up. proxy_draining: our own stop.",
        "cpm",
        Query(a_minute(rate("glm_proxy_cuts_total", CANDIDATE, by=by)), "{{cause}} {{endpoint}}"),
        width=12,
        none="none",
    )


def _leaves() -> Panel:
    return lines(
        "Clients that left, by how far it had come",
        "Exchanges per minute whose client closed the connection. waiting: they lost patience"
        " before the first token. streaming: somebody pressed stop. admission: they did not queue.",
        "cpm",
        Query(a_minute(rate("glm_proxy_client_leaves_total", ROUTE, by=("stage",))), "{{stage}}"),
        width=12,
        none="none",
    )


def _bursts() -> Panel:
    bursts = rate("glm_proxy_bursts_total", CANDIDATE)
    return lines(
        "Bursts",
        "Share of streams whose whole answer came at once: somebody between the model and us"
        " buffers, and the first token comes with the last. Above a few per cent: find the buffer.",
        "percentunit",
        Query(ratio(zero(bursts), rate(f"{_LONGEST}_count", CANDIDATE)), "bursts"),
        width=12,
        none="no streams",
    )


def _heartbeats() -> Panel:
    return lines(
        "Heartbeats",
        "Comment lines per minute, written to clients while their stream is silent, so that nothing"
        " in between gives up. Many: streams are silent for longer than stream.heartbeat.",
        "cpm",
        Query(
            a_minute(total(f"rate({select('glm_proxy_heartbeats_total')}[{RATE}])")), "heartbeats"
        ),
        width=12,
    )


def _speed() -> Panel:
    slowest, middle = (quantile(share, _PER_TOKEN, MODEL) for share in (0.95, 0.5))
    return lines(
        "Tokens per second of one stream",
        "How fast an answer is written after its first token: half of the streams are faster than"
        " the middle one, 95 % faster than the slow one. People read 5 to 10 tokens a second.",
        "suffix: tok/s",
        Query(f"1 / ({middle})", "p50"),
        Query(f"1 / ({slowest})", "slowest 5 %"),
        width=12,
        none="no streams",
    )


def _per_token() -> Panel:
    by = ("gen_ai_response_model",)
    return lines(
        "Time per output token",
        "(duration - time to first token) / (output tokens - 1) of completed streams, by model, p50"
        " and p95. It is the model's pace; the proxy has no part in it.",
        "s",
        *(
            Query(
                quantile(share, _PER_TOKEN, MODEL, by=by),
                f"{{{{gen_ai_response_model}}}} p{share * 100:g}",
            )
            for share in (0.5, 0.95)
        ),
        width=12,
        none="no streams",
    )


def _tokens() -> Panel:
    return lines(
        "Tokens by type",
        "Per second, as the upstream counted them. cached is a part of input, reasoning a part of"
        " output. Much reasoning and little else: time to first content goes there.",
        "suffix: tok/s",
        Query(rate("glm_proxy_tokens_total", CANDIDATE, by=("type",)), "{{type}}"),
        width=12,
        none="no tokens",
    )


def _cached() -> Panel:
    cached, asked, thought, written = (
        rate("glm_proxy_tokens_total", CANDIDATE, f'type="{kind}"')
        for kind in ("cached", "input", "reasoning", "output")
    )
    return lines(
        "Cached share of input, reasoning share of output",
        "Cached input costs less and is faster: a fall means that prompts no longer begin alike, or"
        " that conversations change endpoints. Reasoning output is waited and paid for unread.",
        "percentunit",
        Query(ratio(zero(cached), asked), "cached of input"),
        Query(ratio(zero(thought), written), "reasoning of output"),
        width=12,
        most=1,
        none="no tokens",
    )


def _hedge_cost() -> Panel:
    where = ("route", "endpoint")
    return _attempts_and_tokens(
        "Extra cost of hedging",
        "Attempts per minute whose answer nobody got because another was faster, and their tokens"
        " (right) as far as the upstream counted them: the price of a faster first content."
        " hedge.budget bounds it.",
        rate("glm_proxy_hedge_extra_attempts_total", where),
        {
            kind: rate("glm_proxy_hedge_extra_tokens_total", where, f'type="{kind}"')
            for kind in _COUNTED
        },
    )


def _hedge_share() -> Panel:
    extra = rate("glm_proxy_hedge_extra_attempts_total", ("route", "endpoint"))
    return lines(
        "Extra attempts of hedging, of all attempts",
        "The share of requests to the upstream that hedging added. The budget of a route is 5 %"
        " unless it says otherwise (dashed).",
        "percentunit",
        Query(ratio(zero(extra), rate("glm_proxy_attempts_total", PLACE)), "extra attempts"),
        steps=(("green", None), ("orange", 0.05)),
        width=12,
        none="no attempts",
    )


def _lost() -> Panel:
    return _attempts_and_tokens(
        "Attempts that nobody read",
        "Sent per minute, and answered to no client: failed ones, hedges that lost, clients that"
        " left. Their tokens (right) are billed as far as they came.",
        rate("glm_proxy_lost_attempts_total", ENDPOINT),
        {
            kind: rate("glm_proxy_lost_tokens_total", ENDPOINT, f'type="{kind}"')
            for kind in _COUNTED
        },
    )


def _attempts_and_tokens(
    title: str, description: str, attempts: str, tokens: Mapping[str, str]
) -> Panel:
    return lines(
        title,
        description,
        "cpm",
        Query(a_minute(zero(attempts)), "attempts"),
        *(Query(a_minute(zero(expr)), f"{kind} tokens") for kind, expr in tokens.items()),
        width=12,
        overrides=(
            {
                "matcher": {"id": "byRegexp", "options": ".*tokens"},
                "properties": [{"id": "custom.axisPlacement", "value": "right"}],
            },
        ),
    )


def _bytes() -> Panel:
    return lines(
        "Bytes",
        "Bodies per second: requests received from clients, answers written to them.",
        "Bps",
        *(
            Query(rate(f"glm_proxy_{way}_bytes_total", ROUTE), f"{way}s")
            for way in ("request", "response")
        ),
        width=12,
        none="no exchanges",
    )
