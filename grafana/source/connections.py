"""The part of Upstream that is about connections: pools, opening, closing, certificates."""

from __future__ import annotations

from grafana.source.panels import Panel, Query, bars, lines
from grafana.source.promql import ENDPOINT, a_minute, lowest, quantile, rate, select, total

_DAY = 86400.0


def connections() -> tuple[Panel, ...]:
    return (
        *(_open(), _streams(), _ping()),
        *(_connects(), _phases(), _closed()),
        *(_reuse(), _age(), _certificates()),
    )


def _open() -> Panel:
    return lines(
        "Connections",
        "open (established), opening, and idle (established, without a stream). No idle one while"
        " some are opening: the pool is cold and first tokens pay for handshakes; raise"
        " pool.warm_connections.",
        "short",
        Query(
            total(select("glm_proxy_pool_connections", ENDPOINT), by=("endpoint", "state")),
            "{{endpoint}} {{state}}",
        ),
    )


def _streams() -> Panel:
    return lines(
        "Streams, and attempts that wait for one",
        "Exchanges in progress on the connections, and attempts without a free stream or"
        " connection. Waiting above 0 for long: the pool is too small or cannot connect.",
        "short",
        *(
            Query(
                total(select(f"glm_proxy_pool_{figure}", ENDPOINT), by=ENDPOINT),
                f"{{{{endpoint}}}} {figure}",
            )
            for figure in ("streams", "waiting")
        ),
    )


def _ping() -> Panel:
    return lines(
        "PING round trip",
        "The latest HTTP/2 PING, on the connection where it took least: the distance to the"
        " endpoint. It has no part in the model's time; a step is a change of the network's path.",
        "s",
        Query(
            lowest(select("glm_proxy_ping_round_trip_seconds", ENDPOINT), by=ENDPOINT),
            "{{endpoint}}",
        ),
        none="no HTTP/2 yet",
    )


def _connects() -> Panel:
    by = ("endpoint", "result", "protocol")
    return lines(
        "Connections opened, by result",
        "Per minute: connected, or the error's code. As many as exchanges: something closes them"
        " after each; http/1.1 where h2 was expected: somebody in between does not speak it.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_connects_total", ENDPOINT, by=by)),
            "{{endpoint}} {{result}} {{protocol}}",
        ),
    )


def _phases() -> Panel:
    by = ("endpoint", "phase")
    return lines(
        "Opening a connection: p95 by phase",
        "Seconds for name (dns), connection (tcp) and handshake (tls). An exchange pays this only"
        " when no warm connection is free. Slow dns: the resolver. Slow tcp and tls: the distance,"
        " or loss.",
        "s",
        Query(
            quantile(0.95, "glm_proxy_connect_seconds", ENDPOINT, by=by), "{{endpoint}} {{phase}}"
        ),
        none="none opened",
    )


def _closed() -> Panel:
    by = ("endpoint", "reason")
    return lines(
        "Connections closed, by reason",
        "Per minute: idle, max_age and pool_closed are ours, goaway is the peer's good manners,"
        " lost is not. Many lost: something on the path drops connections; shorten"
        " pool.ping_interval.",
        "cpm",
        Query(
            a_minute(rate("glm_proxy_connections_closed_total", ENDPOINT, by=by)),
            "{{endpoint}} {{reason}}",
        ),
        none="none",
    )


def _reuse() -> Panel:
    by = ("protocol", "reused")
    return lines(
        "Upstream headers p50, by reuse of the connection",
        "Seconds from the request's sending to the response headers. new against reused: what a"
        " cold connection costs besides its handshake.",
        "s",
        Query(
            quantile(0.5, "glm_proxy_upstream_headers_seconds", ENDPOINT, by=by),
            "{{protocol}}, reused {{reused}}",
        ),
        none="no attempts",
    )


def _age() -> Panel:
    return lines(
        "Age of connections when closed: p50",
        "How long connections live. Always the same few minutes: a middlebox or the upstream ends"
        " them; let pool.idle_timeout be shorter than that.",
        "s",
        Query(
            quantile(0.5, "glm_proxy_connection_age_seconds", ENDPOINT, by=ENDPOINT),
            "{{endpoint}}",
        ),
        none="none closed",
    )


def _certificates() -> Panel:
    expiry = select("glm_proxy_certificate_expiry_timestamp_seconds", ENDPOINT)
    return bars(
        "Certificates expire in",
        "Time until the certificate that each endpoint showed last is no longer valid. Below 14"
        " days: somebody forgot to renew it; from then on no connection will open.",
        "s",
        Query(f"{lowest(expiry, by=ENDPOINT)} - time()", "{{endpoint}}", instant=True),
        steps=(("red", None), ("orange", 14 * _DAY), ("green", 30 * _DAY)),
        none="no TLS yet",
    )
