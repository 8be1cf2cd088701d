"""Figures side by side: what the client saw, what Prometheus says, how far they are apart. Pure.

Prometheus knows of a time only in which bucket it fell, and takes the values of a bucket as evenly
spread. So beside the client's own percentile stands the one that the same values would have in the
same buckets: what is between these two is the buckets' doing, not the measurement's.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 0.05
"""How far a percentile may be from the client's, as a share of it."""
COUNT_TOLERANCE = 0.01
"""The same for a count; a difference of `COUNT_SLACK` is always allowed."""
COUNT_SLACK = 2
SAMPLES = 300
"""With fewer, one slow answer more or less moves a p95 by more than the tolerance."""

_ROUNDING = 1e-9

Buckets = Mapping[float, float]
"""Upper bound to how many values are at most that, as a histogram has them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    name: str
    client: float | None
    prometheus: float | None
    count: int
    """Values behind it."""
    bucketed: float | None = None
    """The client's own values, seen through the histogram's buckets."""
    judged: bool = True
    tolerance: float = TOLERANCE
    slack: float = 0.0
    note: str = ""

    @property
    def apart(self) -> float | None:
        """Prometheus' figure against the client's: 0.02 is two per cent more."""
        if self.client is None or self.prometheus is None:
            return None
        if self.client == 0:
            return 0.0 if self.prometheus == 0 else math.inf
        return self.prometheus / self.client - 1

    @property
    def agrees(self) -> bool:
        """Within the tolerance; what was not measured agrees with nothing."""
        if self.client is None or self.prometheus is None or self.apart is None:
            return False
        allowed = max(self.slack, self.tolerance * self.client)
        return abs(self.prometheus - self.client) <= allowed + _ROUNDING

    @property
    def failed(self) -> bool:
        return self.judged and not self.agrees


def counted(name: str, client: float, prometheus: float | None, note: str = "") -> Row:
    """A row of a count; what Prometheus has no series for is zero."""
    return Row(
        name,
        client,
        prometheus or 0.0,
        int(client),
        tolerance=COUNT_TOLERANCE,
        slack=COUNT_SLACK,
        note=note,
    )


def timed(
    name: str, values: Sequence[float], share: float, found: float | None, bounds: Sequence[float]
) -> Row:
    """A row of one percentile."""
    label = f"{name} p{share * 100:g}"
    if not values:
        return Row(label, None, found, 0)
    judged = len(values) >= SAMPLES
    note = "" if judged else f"shown, not judged: {len(values)} values"
    through = histogram_quantile(share, bucketed(values, bounds)) if bounds else None
    client = quantile(values, share)
    return Row(label, client, found, len(values), through, judged, note=note)


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two values next to it, as far as it lies. Raises ValueError without values."""
    if not values:
        raise ValueError("a percentile needs values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def bucketed(values: Sequence[float], bounds: Sequence[float]) -> Buckets:
    """The values as a histogram of these upper bounds keeps them."""
    finite = sorted(bound for bound in bounds if not math.isinf(bound))
    counts = [0] * (len(finite) + 1)
    for value in values:
        counts[bisect_left(finite, value)] += 1
    total, found = 0, {}
    for bound, count in zip((*finite, math.inf), counts, strict=True):
        total += count
        found[bound] = float(total)
    return found


def histogram_quantile(share: float, buckets: Buckets) -> float | None:
    """As Prometheus computes it: evenly spread inside a bucket, the first one beginning at 0."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total == 0:
        return None
    rank = share * total
    below, start = 0.0, 0.0
    for bound in bounds:
        upto = buckets[bound]
        if upto >= rank:
            if math.isinf(bound):
                return start
            return start + (bound - start) * ((rank - below) / (upto - below))
        below, start = upto, bound
    return start
