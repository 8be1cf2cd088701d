"""Conversations: memory, answers told again, streams of clients that left, WebSockets."""

from __future__ import annotations

from grafana.source.dashboard import CONVERSATIONS, Dashboard, Row
from grafana.source.panels import Panel, Query, Steps, lines, stat
from grafana.source.promql import (
    RANGE,
    ROUTE,
    a_minute,
    highest,
    quantile,
    rate,
    ratio,
    select,
    total,
    zero,
)

_NEVER: Steps = (("green", None), ("red", 0.001))
_LOOKUPS = "glm_proxy_memory_lookups_total"
_CACHED = "glm_proxy_cache_requests_total"
_GOOD_CLOSES = 'code=~"1000|1001|1005"'
_OTHER_CLOSES = 'code!~"1000|1001|1005"'


def dashboard() -> Dashboard:
    return Dashboard(
        CONVERSATIONS,
        "What rules do with conversations: memory, cache, kept streams, WebSockets.",
        (
            Row("Memory", (_lookups(), _told(), _saved(), _store(), _writes())),
            Row("Answers told again", (_hits(), _answers(), _stored(), _cache_failures())),
            Row("Clients that left", (_left(), _kept(), _bytes(), _resumed())),
            Row("WebSockets", (_open(), _messages(), _closes())),
        ),
        hidden=frozenset({"model", "endpoint"}),
    )


def _lookups() -> Panel:
    return lines(
        "Lookups of memories, by result",
        "used: the model was told something. late: there was something, and it came too late for"
        " this turn; many: raise the rule's `wait`, or look at the store. none: nothing to tell.",
        "reqps",
        *(
            Query(zero(rate(_LOOKUPS, ROUTE, f'result="{result}"')), result)
            for result in ("used", "late", "none")
        ),
        width=12,
        stack="normal",
    )


def _told() -> Panel:
    used = rate(_LOOKUPS, ROUTE, 'result="used"')
    return lines(
        "Told to the model, for each use",
        "Memories, and their tokens as estimated, in a request that was told any. They are paid as"
        " input: `max_items` and `max_tokens` bound them.",
        "short",
        Query(ratio(rate("glm_proxy_memory_items_total", ROUTE), used), "memories"),
        Query(ratio(rate("glm_proxy_memory_tokens_total", ROUTE), used), "tokens"),
        width=12,
        none="none",
        overrides=(
            {
                "matcher": {"id": "byName", "options": "tokens"},
                "properties": [{"id": "custom.axisPlacement", "value": "right"}],
            },
        ),
    )


def _saved() -> Panel:
    saved = rate("glm_proxy_memory_saved_seconds_total", ROUTE)
    return lines(
        "First token sooner by",
        "Seconds that each request on a rule with memory would have waited for its lookup, and did"
        " not.",
        "s",
        Query(ratio(saved, rate(_LOOKUPS, ROUTE)), "saved"),
        none="none",
    )


def _store() -> Panel:
    return lines(
        "The store of memories: p95, by operation",
        "How long a search or a write took. No request waits longer than its rule's `wait`; slow"
        " searches show as late lookups.",
        "s",
        Query(quantile(0.95, "glm_proxy_memory_store_seconds", by=("operation",)), "{{operation}}"),
        none="none",
    )


def _writes() -> Panel:
    dropped = rate("glm_proxy_memory_writes_total", (), 'result=~"dropped|failed"')
    failures = rate("glm_proxy_memory_failures_total")
    return lines(
        "Turns lost, and failures of the store",
        "A minute: turns that were to be remembered and are not; what was asked of the store and"
        " was not done. Above zero: the store is down, slow or full; requests do not notice.",
        "cpm",
        Query(a_minute(zero(dropped)), "turns lost"),
        Query(a_minute(zero(failures)), "failures"),
        steps=_NEVER,
    )


def _hits() -> Panel:
    hits = rate(_CACHED, ROUTE, 'result="hit"', window=RANGE)
    asked = rate(_CACHED, ROUTE, 'result=~"hit|miss"', window=RANGE)
    return stat(
        "Answers that cost nothing",
        "Of requests that the cache was asked for, the share that it answered, over the whole time"
        " shown. Low: callers rarely repeat themselves, or `ttl` is short.",
        "percentunit",
        Query(ratio(zero(hits), asked), "hits", instant=True),
        none="no cache",
        height=8,
    )


def _answers() -> Panel:
    return lines(
        "Requests on rules with a cache, by result",
        "hit: a kept answer was told. miss: the API was asked. bypass: the cache was not, since the"
        " request said so or its answer may differ each time.",
        "reqps",
        *(
            Query(zero(rate(_CACHED, ROUTE, f'result="{result}"')), result)
            for result in ("hit", "miss", "bypass")
        ),
        width=6,
        stack="normal",
    )


def _stored() -> Panel:
    return lines(
        "Bytes of kept answers",
        "What the stores of answers hold, responses included. It stays below their `max_size`;"
        " what was used longest ago goes first.",
        "bytes",
        Query(highest(select("glm_proxy_cache_stored_bytes"), by=("instance",)), "{{instance}}"),
        width=6,
    )


def _cache_failures() -> Panel:
    return lines(
        "Failures of the stores of answers",
        "A minute: what was asked of a store and was not done, or not in time: a miss each, and for"
        " a stored response an error. Above zero: look at the store.",
        "cpm",
        Query(a_minute(zero(rate("glm_proxy_cache_failures_total"))), "failures"),
        steps=_NEVER,
        width=6,
    )


def _left() -> Panel:
    became = ("cancelled", "drained", "kept", "gave_up")
    return lines(
        "Clients that left, by what became of the answer",
        "cancelled: the API was told at once. drained: read to its end for its usage. kept: it"
        " could be fetched. gave_up: ended, since its time was over or room was needed.",
        "cpm",
        *(
            Query(a_minute(zero(rate("glm_proxy_clients_left_total", ROUTE, f'then="{one}"'))), one)
            for one in became
        ),
        width=6,
        stack="normal",
    )


def _kept() -> Panel:
    return lines(
        "Kept streams",
        "Streams that can be fetched again. With a steady rate of clients that leave it is steady"
        " too.",
        "short",
        Query(total(select("glm_proxy_kept_streams"), by=("instance",)), "{{instance}}"),
        width=6,
    )


def _bytes() -> Panel:
    return lines(
        "Bytes of kept streams",
        "Memory that they take. Each process keeps `keep.max_size` at most; near it, beginnings are"
        " forgotten and streams given up.",
        "bytes",
        Query(total(select("glm_proxy_kept_bytes"), by=("instance",)), "{{instance}}"),
        width=6,
    )


def _resumed() -> Panel:
    results = ("resumed", "unknown", "forgotten", "refused")
    return lines(
        "Requests for a kept stream, by result",
        "unknown: there is none (any more), or it is another caller's. forgotten: the event to go"
        " on from is gone; raise `keep.max_answer`. Many unknown: clients come back too late.",
        "cpm",
        *(
            Query(
                a_minute(zero(rate("glm_proxy_streams_resumed_total", (), f'result="{one}"'))), one
            )
            for one in results
        ),
        width=6,
        stack="normal",
    )


def _open() -> Panel:
    return lines(
        "Open WebSockets",
        "Each is two files at most and about 20 KiB while nothing is said. What runs on them is in"
        " flight as any exchange.",
        "short",
        Query(total(select("glm_proxy_websockets"), by=("instance",)), "{{instance}}"),
    )


def _messages() -> Panel:
    return lines(
        "Messages",
        "On the WebSockets of clients: received are theirs, sent ours.",
        "cps",
        *(
            Query(zero(rate("glm_proxy_websocket_messages_total", (), f'direction="{one}"')), one)
            for one in ("received", "sent")
        ),
    )


def _closes() -> Panel:
    closed = "glm_proxy_websocket_closed_total"
    return lines(
        "WebSockets that ended",
        "A minute. As meant: codes 1000, 1001 and none. Otherwise: without a Close (1006), for what"
        " a client did (1002, 1007, 1008, 1009), or for a defect (1011).",
        "cpm",
        Query(a_minute(zero(rate(closed, (), _GOOD_CLOSES))), "as meant"),
        Query(a_minute(zero(rate(closed, (), _OTHER_CLOSES))), "otherwise"),
    )
