"""The kinds of panel: what each looks like is said here once, what it shows by its dashboard.

Colours are Grafana's names and palettes, which it adapts to the light and the dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from proxy.observe import objective

Json = bool | int | float | str | None | Sequence["Json"] | Mapping[str, "Json"]
Fields = Mapping[str, Json]
Steps = tuple[tuple[str, float | None], ...]
"""Colours, each with the value from which it holds; the first has none."""

TARGET: Steps = (("green", None), ("red", objective.TARGET))
"""The first content's."""
PLAIN: Steps = (("text", None),)

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
"""The one that is chosen at the top of the dashboard."""
_MIN_STEP = "15s"
"""No finer than a scrape. Grafana takes the length of a scrape itself from the data source."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query of a panel, and how its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False
    exemplar: bool = False
    """Shows single exchanges too: they carry the request's id. One query of a panel is enough."""
    form: Literal["time_series", "heatmap", "table"] = "time_series"

    def json(self, ref: str) -> Fields:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplar,
            "expr": self.expr,
            "format": self.form,
            "instant": self.instant,
            "legendFormat": self.legend or "__auto",
            "range": not self.instant,
            "refId": ref,
        }


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; width and height are in units of Grafana's grid, 24 to a line."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    options: Fields
    defaults: Fields
    width: int = 8
    height: int = 8
    overrides: tuple[Fields, ...] = ()
    transformations: tuple[Fields, ...] = ()
    links: tuple[Fields, ...] = ()

    def json(self, number: int, x: int, y: int) -> Fields:
        queries = [query.json(chr(ord("A") + at)) for at, query in enumerate(self.queries)]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "interval": _MIN_STEP,
            "fieldConfig": {
                "defaults": {
                    **{name: one for name, one in self.defaults.items() if one is not None},
                    "unit": self.unit,
                },
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "links": list(self.links),
            "transformations": list(self.transformations),
            "targets": queries,
        }

    def leading_to(self, title: str, uid: str) -> Panel:
        """With a link to another dashboard, at the same time and with the same choices."""
        url = f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}"
        return replace(self, links=({"title": title, "url": url, "targetBlank": False},))


def thresholds(steps: Steps) -> Fields:
    """From which value on which colour."""
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in steps],
    }


def stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps = PLAIN,
    width: int = 6,
    height: int = 6,
    decimals: int | None = None,
    names: bool = False,
    none: str = "no data",
    mappings: Sequence[Fields] = (),
) -> Panel:
    """Large numbers; `none` is what stands there when there are none."""
    defaults: Fields = {
        "color": {"mode": "thresholds"},
        "decimals": decimals,
        "mappings": mappings,
        "noValue": none,
        "thresholds": thresholds(steps),
    }
    options: Fields = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if names else "auto",
        "wideLayout": True,
    }
    return Panel("stat", title, description, unit, queries, options, defaults, width, height)


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps | None = None,
    width: int = 8,
    height: int = 8,
    stack: Literal["none", "normal", "percent"] = "none",
    figures: bool = False,
    least: float | None = 0,
    most: float | None = None,
    none: str = "no data",
    overrides: tuple[Fields, ...] = (),
) -> Panel:
    """Values over time. `steps` draws a line at each threshold; `figures` adds last and maximum."""
    defaults: Fields = {
        "color": {"mode": "palette-classic"},
        "custom": {
            "axisSoftMin": 0,
            "drawStyle": "line",
            "fillOpacity": 8 if stack == "none" else 60,
            "lineWidth": 1,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": stack},
            "thresholdsStyle": {"mode": "off" if steps is None else "dashed"},
        },
        "max": most,
        "min": least,
        "noValue": none,
        "thresholds": thresholds(steps or PLAIN),
    }
    legend: Fields = {
        "calcs": ["lastNotNull", "max"] if figures else [],
        "displayMode": "table" if figures else "list",
        "placement": "bottom",
        "showLegend": True,
    }
    options: Fields = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return Panel(
        *("timeseries", title, description, unit, queries, options, defaults, width, height),
        overrides=overrides,
    )


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps = PLAIN,
    width: int = 8,
    height: int = 8,
    none: str = "no data",
) -> Panel:
    """One horizontal bar for each series, in the order of the queries."""
    defaults: Fields = {
        "color": {"mode": "thresholds" if steps != PLAIN else "continuous-BlPu"},
        "min": 0,
        "noValue": none,
        "thresholds": thresholds(steps),
    }
    options: Fields = {
        "displayMode": "basic",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 14,
        "minVizWidth": 8,
        "namePlacement": "left",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "text",
    }
    return Panel("bargauge", title, description, unit, queries, options, defaults, width, height)


def heatmap(
    title: str,
    description: str,
    expr: str,
    *,
    exemplar: bool = False,
    width: int = 12,
    height: int = 9,
) -> Panel:
    """A histogram over time: the darker a field, the more values; its height is in seconds."""
    query = Query(expr, "{{le}}", exemplar=exemplar, form="heatmap")
    options: Fields = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"decimals": 0, "unit": "short"},
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "blue"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    defaults: Fields = {"custom": {"scaleDistribution": {"type": "linear"}}, "noValue": "no data"}
    return Panel("heatmap", title, description, "s", (query,), options, defaults, width, height)


def timeline(
    title: str,
    description: str,
    query: Query,
    states: Sequence[tuple[str, str]],
    *,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Which state each series was in; `states` names the values 0, 1, … and their colours."""
    named: Fields = {
        str(value): {"color": colour, "index": value, "text": text}
        for value, (text, colour) in enumerate(states)
    }
    defaults: Fields = {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "mappings": [{"type": "value", "options": named}],
        "noValue": "no data",
        "thresholds": thresholds(PLAIN),
    }
    options: Fields = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    queries = (query,)
    return Panel(
        "state-timeline", title, description, "none", queries, options, defaults, width, height
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table that has a query of its own."""

    name: str
    expr: str
    unit: str
    steps: Steps | None = None


def table(
    title: str,
    description: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    width: int = 24,
    height: int = 8,
) -> Panel:
    """A line for each set of values of `labels` (label -> heading), a column for each query."""
    queries = tuple(Query(column.expr, instant=True, form="table") for column in columns)
    values = {f"Value #{chr(ord('A') + at)}": one.name for at, one in enumerate(columns)}
    order = [*labels, *values]
    organize: Fields = {
        "excludeByName": {"Time": True},
        "indexByName": {name: at for at, name in enumerate(order)},
        "renameByName": {**labels, **values},
    }
    return Panel(
        "table",
        title,
        description,
        "short",
        queries,
        {"cellHeight": "sm", "footer": {"reducer": ["sum"], "show": False}, "showHeader": True},
        {"custom": {"align": "auto", "filterable": True}, "noValue": "-"},
        width,
        height,
        overrides=tuple(_column(one) for one in columns),
        transformations=(
            {"id": "merge", "options": {}},
            {"id": "organize", "options": organize},
        ),
    )


def _column(column: Column) -> Fields:
    looks: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.steps is not None:
        looks.append({"id": "thresholds", "value": thresholds(column.steps)})
        looks.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    return {"matcher": {"id": "byName", "options": column.name}, "properties": looks}
