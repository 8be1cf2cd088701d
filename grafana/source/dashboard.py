"""A dashboard: rows of panels, and what all dashboards share: variables, links, annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana.source.panels import DATASOURCE, Fields, Panel
from grafana.source.promql import highest, select

COLUMNS = 24
TAG = "glm-proxy"
OVERVIEW = "glm-proxy-overview"
UPSTREAM = "glm-proxy-upstream"
STREAMS = "glm-proxy-streams"
CONVERSATIONS = "glm-proxy-conversations"
PROCESS = "glm-proxy-process"
TITLES = {
    OVERVIEW: "glm-proxy / Overview",
    UPSTREAM: "glm-proxy / Upstream",
    STREAMS: "glm-proxy / Streams",
    CONVERSATIONS: "glm-proxy / Conversations",
    PROCESS: "glm-proxy / Process",
}
_TOOLTIPS = {
    OVERVIEW: "Are first tokens under 5 s, where does the time go, whose fault is it",
    UPSTREAM: "Endpoints and models: stages, attempts, connections, limits",
    STREAMS: "Between the first token and the last: gaps, cuts, tokens",
    CONVERSATIONS: "Memory, answers told again, kept streams, WebSockets",
    PROCESS: "The proxy itself: event loop, memory, settings, scrapes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and the panels that answer it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `uid` is the last part of its address and never changes."""

    uid: str
    description: str
    rows: tuple[Row, ...]
    hidden: frozenset[str] = frozenset()
    """Variables that nothing here is chosen by: kept for the links, not shown."""


def rendered(dashboard: Dashboard) -> Fields:
    """The JSON that Grafana imports."""
    return {
        "annotations": {"list": [_BUILT_IN, _reloads(), _breakers()]},
        "description": dashboard.description,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [_link(uid) for uid in TITLES if uid != dashboard.uid],
        "panels": list(_panels(dashboard.rows)),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": [TAG],
        "templating": {"list": _variables(dashboard.hidden)},
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": TITLES[dashboard.uid],
        "uid": dashboard.uid,
        "version": 1,
        "weekStart": "",
    }


def _panels(rows: Sequence[Row]) -> Iterator[Fields]:
    """From left to right, and on to the next line when the next one has no room left."""
    number, y = 1, 0
    for row in rows:
        yield _heading(row.title, number, y)
        number, x, y, height = number + 1, 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield panel.json(number, x, y)
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def _heading(title: str, number: int, y: int) -> Fields:
    return {
        "collapsed": False,
        "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        "id": number,
        "panels": [],
        "title": title,
        "type": "row",
    }


def _link(uid: str) -> Fields:
    return {
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": True,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
        "title": TITLES[uid].rpartition(" / ")[2],
        "tooltip": _TOOLTIPS[uid],
        "type": "link",
        "url": f"/d/{uid}",
    }


def _variables(hidden: frozenset[str]) -> list[Fields]:
    """`instance` narrows the others; all of them begin with everything."""
    of_instance = 'instance=~"$instance"'
    choices = {
        "instance": ("Instance", "label_values(glm_proxy_build_info, instance)"),
        "route": ("Route", f"label_values(glm_proxy_exchanges_total{{{of_instance}}}, route)"),
        "model": (
            "Model",
            f"label_values(glm_proxy_exchanges_total{{{of_instance}}}, served_model)",
        ),
        "endpoint": (
            "Endpoint",
            f"label_values(glm_proxy_endpoint_info{{{of_instance}}}, endpoint)",
        ),
    }
    datasource: Fields = {
        "current": {},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }
    chosen = [
        _variable(name, label, query, hide=name in hidden)
        for name, (label, query) in choices.items()
    ]
    return [datasource, *chosen]


def _variable(name: str, label: str, query: str, *, hide: bool) -> Fields:
    """All is `.*`, not the list of the values: what appears later is part of it."""
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": DATASOURCE,
        "definition": query,
        "hide": 2 if hide else 0,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "options": [],
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor"},
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }


_BUILT_IN: Fields = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "blue",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}


def _reloads() -> Fields:
    """A line at the very moment: the series' value is the time at which settings were loaded."""
    loaded = select("glm_proxy_config_last_reload_success_timestamp_seconds")
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": f"1000 * {loaded}",
        "hide": False,
        "iconColor": "blue",
        "name": "Settings loaded",
        "step": "15s",
        "tagKeys": "instance",
        "textFormat": "by {{instance}}",
        "titleFormat": "Settings loaded",
        "useValueForTime": True,
    }


def _breakers() -> Fields:
    """The time in which a breaker is open: Grafana leaves out zeros and joins what follows."""
    opened = select("glm_proxy_breaker_state", ("endpoint", "served_model"), 'state="open"')
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": highest(opened, by=("endpoint", "served_model")),
        "hide": False,
        "iconColor": "orange",
        "name": "Breaker open",
        "step": "15s",
        "tagKeys": "endpoint,served_model",
        "textFormat": "{{endpoint}}, {{served_model}}: left out after failures",
        "titleFormat": "Breaker open",
        "useValueForTime": False,
    }
