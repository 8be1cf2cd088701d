"""Process: the proxy itself. Event loop, memory, files, settings, scrapes."""

from __future__ import annotations

from grafana.source.dashboard import PROCESS, Dashboard, Row
from grafana.source.panels import Fields, Panel, Query, Steps, lines, stat
from grafana.source.promql import (
    RATE,
    ROUTE,
    highest,
    lowest,
    own,
    quantile,
    rate,
    select,
    total,
)

_LAG: Steps = (("green", None), ("orange", 0.05), ("red", 0.1))
_YES_NO: tuple[Fields, ...] = (
    {
        "type": "value",
        "options": {
            "0": {"color": "red", "index": 0, "text": "refused"},
            "1": {"color": "green", "index": 1, "text": "in use"},
        },
    },
)
_INSTANCE = ("instance",)


def dashboard() -> Dashboard:
    return Dashboard(
        PROCESS,
        "Is it the proxy itself: event loop, memory, files, settings, scrapes.",
        (
            Row("What runs", (_up(), _workers(), _version(), _uptime())),
            Row("Event loop", (_lag(), _overhead(), _pauses(), _paused())),
            Row("Resources", (_cpu(), _memory(), _files(), _in_flight())),
            Row("Settings", (_settings(), _loaded(), _hashes(), _loads())),
            Row("Scrapes and logs", (_scraped(), _scrape_time(), _dropped())),
        ),
        hidden=frozenset({"route", "model", "endpoint"}),
    )


def _up() -> Panel:
    return stat(
        "Instances up",
        "Scrape targets that answered, of those that Prometheus knows. Fewer: a proxy is gone, or"
        " its admin listener cannot be reached.",
        "none",
        Query(total(own("up")), "up", instant=True),
        Query(f"count({own('up')})", "known", instant=True),
        names=True,
    )


def _workers() -> Panel:
    return stat(
        "Worker processes",
        "Processes that the scrapes tell of, and those that live and did not answer: their gauges"
        " are missing. Fewer than server.workers asks for: one has died.",
        "none",
        Query(total(select("glm_proxy_workers")), "workers", instant=True),
        Query(total(select("glm_proxy_workers_silent")), "silent", instant=True),
        names=True,
    )


def _version() -> Panel:
    return stat(
        "Version",
        "How many instances run which version. Two versions: a roll-out is on its way, or stuck.",
        "none",
        Query(
            f"count by (version) ({select('glm_proxy_build_info')})", "{{version}}", instant=True
        ),
        names=True,
    )


def _uptime() -> Panel:
    started = own("process_start_time_seconds")
    return stat(
        "Running for",
        "Time since the oldest process of an instance started. Short without a roll-out: it was"
        " restarted; look at the log's end before.",
        "s",
        Query(f"time() - {lowest(started, by=_INSTANCE)}", "{{instance}}", instant=True),
        names=True,
    )


def _lag() -> Panel:
    return lines(
        "Event loop lag",
        "How late a timer of the event loop came. Everything waits that long: above 50 ms tokens"
        " stutter. High: the CPU is full (Resources), or something blocks the loop.",
        "s",
        *(
            Query(quantile(share, "glm_proxy_event_loop_lag_seconds"), name)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("never above", 1))
        ),
        steps=_LAG,
        width=12,
        figures=True,
    )


def _overhead() -> Panel:
    return lines(
        "What the proxy adds before the first byte",
        "p50 and p99, by kind. It rises with the lag of the event loop; if it rises alone, look at"
        " the size of request bodies.",
        "s",
        *(
            Query(
                quantile(share, "glm_proxy_overhead_seconds", ROUTE, by=("kind",)),
                f"{{{{kind}}}} p{share * 100:g}",
                exemplar=share == 0.5,
            )
            for share in (0.5, 0.99)
        ),
        steps=(("green", None), ("red", 0.01)),
        width=12,
        figures=True,
        none="no exchanges",
    )


def _pauses() -> Panel:
    return lines(
        "Garbage collector: pause p99",
        "Seconds that one collection stopped everything, by generation. Above 50 ms in generation"
        " 2: many objects are alive; look at memory and in flight.",
        "s",
        Query(
            quantile(0.99, "glm_proxy_gc_pause_seconds", by=("generation",)),
            "generation {{generation}}",
        ),
        steps=_LAG,
        width=12,
        none="none",
    )


def _paused() -> Panel:
    return lines(
        "Garbage collector: share of the time",
        "How much of its time the process spends collecting. Above 5 %: it makes more than it"
        " should.",
        "percentunit",
        Query(
            rate("glm_proxy_gc_pause_seconds_sum", by=("generation",)), "generation {{generation}}"
        ),
        steps=(("green", None), ("orange", 0.05)),
        width=12,
        stack="normal",
    )


def _cpu() -> Panel:
    return lines(
        "CPU",
        "Processors in use; one process uses one at most. Near 1 for each worker (see above): more"
        " workers or more instances.",
        "none",
        Query(
            total(f"rate({own('process_cpu_seconds_total')}[{RATE}])", by=_INSTANCE),
            "{{instance}}",
        ),
        width=12,
    )


def _memory() -> Panel:
    return lines(
        "Memory (RSS)",
        "Memory of all processes of an instance. It should follow what is in flight and come back;"
        " a steady climb is a leak.",
        "bytes",
        Query(total(own("process_resident_memory_bytes"), by=_INSTANCE), "{{instance}}"),
        width=12,
    )


def _files() -> Panel:
    opened = total(own("process_open_fds"), by=_INSTANCE)
    most = total(own("process_max_fds"), by=_INSTANCE)
    return lines(
        "Open files, of those allowed",
        "Sockets are files, two for each exchange. At 100 % no connection can be accepted: raise"
        " LimitNOFILE, or find what does not close.",
        "percentunit",
        Query(f"{opened} / {most}", "{{instance}} share"),
        Query(opened, "{{instance}} open"),
        steps=(("green", None), ("orange", 0.7), ("red", 0.9)),
        width=12,
        overrides=(
            {
                "matcher": {"id": "byRegexp", "options": ".* open"},
                "properties": [
                    {"id": "unit", "value": "short"},
                    {"id": "custom.axisPlacement", "value": "right"},
                ],
            },
        ),
    )


def _in_flight() -> Panel:
    return lines(
        "In flight",
        "Exchanges that have begun and not ended.",
        "short",
        Query(total(select("glm_proxy_exchanges_in_flight"), by=_INSTANCE), "{{instance}}"),
        width=12,
    )


def _settings() -> Panel:
    return stat(
        "Latest settings",
        "Whether the latest load of the settings succeeded. refused: the ones from before are still"
        " in use; `glm-proxy check FILE` says what is wrong.",
        "none",
        Query(
            lowest(select("glm_proxy_config_last_reload_successful"), by=_INSTANCE),
            "{{instance}}",
            instant=True,
        ),
        steps=(("red", None), ("green", 1.0)),
        mappings=_YES_NO,
        names=True,
    )


def _loaded() -> Panel:
    loaded = select("glm_proxy_config_last_reload_success_timestamp_seconds")
    return stat(
        "Settings loaded",
        "How long ago the settings in use were loaded. Longer than your last change: a process did"
        " not follow.",
        "s",
        Query(f"time() - {lowest(loaded, by=_INSTANCE)}", "{{instance}}", instant=True),
        names=True,
    )


def _hashes() -> Panel:
    return stat(
        "Settings in use",
        "A short hash of the effective settings, and how many instances have it. Two: instances"
        " differ.",
        "none",
        Query(f"count by (hash) ({select('glm_proxy_config_info')})", "{{hash}}", instant=True),
        names=True,
    )


def _loads() -> Panel:
    return lines(
        "Loads of the settings",
        "How often settings were loaded since the start (which is the first), by result.",
        "short",
        Query(
            total(select("glm_proxy_config_reloads_total"), by=("instance", "result")),
            "{{instance}} {{result}}",
        ),
        width=6,
        height=6,
    )


def _scraped() -> Panel:
    return lines(
        "Scrapes that worked",
        "1 when Prometheus could read an instance. A gap here is a gap on all panels, not in the"
        " traffic.",
        "none",
        Query(highest(own("up"), by=_INSTANCE), "{{instance}}"),
        most=1,
    )


def _scrape_time() -> Panel:
    return lines(
        "Duration of a scrape",
        "How long reading all metrics takes. Above 1 s: very many routes, models and endpoints, or"
        " a busy process.",
        "s",
        Query(highest(own("scrape_duration_seconds"), by=_INSTANCE), "{{instance}}"),
        steps=(("green", None), ("orange", 1.0)),
    )


def _dropped() -> Panel:
    return lines(
        "Log lines and spans dropped",
        "Per second: lines of each log, and spans of traces. Whoever takes them does not keep up."
        " The proxy does not wait, and what is dropped is lost.",
        "cps",
        Query(rate("glm_proxy_log_lines_dropped_total", by=("log",)), "{{log}}"),
        Query(rate("glm_proxy_spans_dropped_total"), "spans"),
        steps=(("green", None), ("red", 0.001)),
    )
