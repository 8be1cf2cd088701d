"""How the events of a stream came, and how streams ended that had begun: gaps, bursts, cuts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from proxy.core.record import Record
from proxy.observe import buckets
from proxy.observe.labels import Labels
from proxy.observe.series import CountedHistograms, Counters, Group, Histograms

_BURST_EVENTS = 10
"""Fewer may well come together: a short answer, a tool call."""
_BURST_GAP = 0.001
"""Seconds between two events, on average: no model writes 1,000 tokens a second."""

_WHERE = ("route", "served_model", "endpoint")


def came_at_once(record: Record) -> bool:
    """Whether somebody upstream held the whole answer back and let it go in one burst.

    It is so for a stream of at least ten events that had less than a millisecond from one to the
    next, on average. An error is no answer, and the copy of a shared one tells nothing: who joins
    late gets what is there at once.
    """
    timeline = record.timeline
    first, last, events = timeline.first_event, timeline.last_event, timeline.events
    if events < _BURST_EVENTS or first is None or last is None:
        return False
    if not record.stream or record.status != 200 or record.shared:
        return False
    return (last - first) / (events - 1) < _BURST_GAP


def was_cut(record: Record) -> bool:
    """Whether a stream that the client was already reading ended before its end, by no wish of
    the client's."""
    return (
        record.outcome not in ("completed", "client_gone")
        and record.stream
        and record.status == 200
        and record.timeline.committed is not None
    )


class Streams(Group):
    """Metrics of streams. `finish` is called once for each finished chat exchange."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.gaps = CountedHistograms(
            registry,
            "glm_proxy_event_gap_seconds",
            "Seconds between two events of a stream, every gap of every stream; events that came in"
            " one read have none between them. Added when the stream ends.",
            _WHERE,
            buckets.GAP,
        )
        self.gap_mean = Histograms(
            registry,
            "glm_proxy_event_gap_mean_seconds",
            "Mean seconds between two events of a stream, one value per stream.",
            _WHERE,
            buckets.GAP,
        )
        self.gap_max = Histograms(
            registry,
            "glm_proxy_event_gap_max_seconds",
            "Longest silence in seconds between two events of a stream, one value per stream.",
            _WHERE,
            buckets.GAP,
        )
        self.bursts = Counters(
            registry,
            "glm_proxy_bursts_total",
            "Streams whose whole answer came at once (ten events or more, less than a millisecond"
            " apart on average): somebody upstream buffers.",
            _WHERE,
        )
        self.cuts = Counters(
            registry,
            "glm_proxy_cuts_total",
            "Streams that broke off after the client had begun to read them, by cause: the"
            " exchange's outcome.",
            ("cause", *_WHERE),
        )

    def finish(self, record: Record, of: Labels, outcome: str) -> None:
        """`of` and `outcome`: the exchange's own label values."""
        where = (of.route, of.served_model, of.endpoint)
        timeline = record.timeline
        if timeline.gaps > 0:
            self.gaps.add(where, timeline.gap_counts, timeline.gaps, timeline.gap_sum)
            self.gap_mean.observe(where, timeline.gap_sum / timeline.gaps)
            self.gap_max.observe(where, timeline.gap_max)
            if came_at_once(record):
                self.bursts.add(where)
        if was_cut(record):
            self.cuts.add((outcome, *where))
