"""PromQL, as text: selectors that follow the dashboard's variables, rates, shares, percentiles.

Whatever can be divided by zero, or have no value, is left out instead of drawn: a stretch without
traffic is a gap in the line. Where absence means that it never happened, `zero` says so.
"""

from __future__ import annotations

from collections.abc import Iterable

RATE = "$__rate_interval"
"""Four scrapes at least, and what one pixel stands for."""
RANGE = "$__range"
"""The whole time the dashboard shows."""

JOB = "glm-proxy"
"""The name of the scrape job: what tells our `up` and `process_*` from everybody's."""

CANDIDATE = ("route", "served_model", "endpoint")
PLACE = ("endpoint", "served_model")
ENDPOINT = ("endpoint",)
ROUTE = ("route",)
MODEL = ("gen_ai_response_model",)

_VARIABLES = {
    "route": "route",
    "served_model": "model",
    "gen_ai_response_model": "model",
    "endpoint": "endpoint",
    "from_endpoint": "endpoint",
}
"""The variable that each label is chosen by."""


def select(metric: str, scope: Iterable[str] = (), *matchers: str) -> str:
    """The series of `metric` that the variables choose, by the labels of `scope` and instance."""
    chosen = [f'{label}=~"${_VARIABLES[label]}"' for label in scope]
    return f"{metric}{{{','.join([*matchers, *chosen, _INSTANCE])}}}"


_INSTANCE = 'instance=~"$instance"'


def own(metric: str) -> str:
    """The series of a metric that other programs have too."""
    return select(metric, (), f'job="{JOB}"')


def rate(
    metric: str,
    scope: Iterable[str] = (),
    *matchers: str,
    by: Iterable[str] = (),
    window: str = RATE,
) -> str:
    """How much a counter grew a second, added up but for the labels of `by`."""
    return total(f"rate({select(metric, scope, *matchers)}[{window}])", by=by)


def total(expr: str, *, by: Iterable[str] = ()) -> str:
    """The sum, one for each value of the labels."""
    return _over("sum", expr, by)


def highest(expr: str, *, by: Iterable[str] = ()) -> str:
    """The maximum, one for each value of the labels."""
    return _over("max", expr, by)


def lowest(expr: str, *, by: Iterable[str] = ()) -> str:
    """The minimum, one for each value of the labels."""
    return _over("min", expr, by)


def _over(aggregation: str, expr: str, by: Iterable[str]) -> str:
    labels = ", ".join(by)
    return f"{aggregation} by ({labels}) ({expr})" if labels else f"{aggregation}({expr})"


def zero(expr: str) -> str:
    """`expr`, which has no labels, or 0 where nothing of it was ever seen."""
    return f"({expr} or vector(0))"


def ratio(part: str, whole: str) -> str:
    """`part` of `whole`; nothing while `whole` is zero."""
    return f"{part} / ({whole} > 0)"


def a_minute(expr: str) -> str:
    """A rate by the minute: what happens rarely has readable numbers."""
    return f"60 * {expr}"


def quantile(
    share: float,
    histogram: str,
    scope: Iterable[str] = (),
    *matchers: str,
    by: Iterable[str] = (),
    window: str = RATE,
) -> str:
    """A percentile of a histogram; `>= 0` leaves out NaN, which it is while nothing came."""
    buckets = rate(f"{histogram}_bucket", scope, *matchers, by=("le", *by), window=window)
    return f"histogram_quantile({share}, {buckets}) >= 0"


def mean(
    histogram: str,
    scope: Iterable[str] = (),
    *matchers: str,
    by: Iterable[str] = (),
    window: str = RATE,
) -> str:
    """The mean of a histogram's values."""
    by = tuple(by)
    return ratio(
        rate(f"{histogram}_sum", scope, *matchers, by=by, window=window),
        rate(f"{histogram}_count", scope, *matchers, by=by, window=window),
    )


def heat(histogram: str, scope: Iterable[str] = ()) -> str:
    """How many values came in each bucket: what a heat map is drawn from."""
    return f"sum by (le) (increase({select(f'{histogram}_bucket', scope)}[{RATE}]))"


def over(histogram: str, bound: str, scope: Iterable[str] = ()) -> str:
    """Values above one of the histogram's bounds, a second."""
    every = rate(f"{histogram}_count", scope)
    return f"{every} - {rate(f'{histogram}_bucket', scope, within(bound))}"


def within(bound: str) -> str:
    """The matcher of a histogram's bucket."""
    return f'le="{bound}"'
