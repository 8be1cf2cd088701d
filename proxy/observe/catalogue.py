"""Every metric of a running proxy as data: what the table of metrics is made of.

Names, types, labels and meanings are read from the instruments themselves (`proxy.observe.table`).
What they cannot say is told here: how the values of several processes become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from prometheus_client.core import Metric

Merge = Literal["sum", "max", "min"]

MERGE: Mapping[str, Merge] = MappingProxyType(
    {
        # Each process has its own share: together they have the sum.
        "glm_proxy_exchanges_in_flight": "sum",
        "glm_proxy_pool_connections": "sum",
        "glm_proxy_pool_streams": "sum",
        "glm_proxy_pool_waiting": "sum",
        "glm_proxy_admission_waiting": "sum",
        "glm_proxy_admission_in_flight": "sum",
        "glm_proxy_admission_limit": "sum",
        "glm_proxy_workers": "sum",
        "glm_proxy_websockets": "sum",
        "glm_proxy_kept_streams": "sum",
        "glm_proxy_kept_bytes": "sum",
        "process_virtual_memory_bytes": "sum",
        "process_resident_memory_bytes": "sum",
        "process_open_fds": "sum",
        "process_max_fds": "sum",
        # All see the same thing: the worst view of it.
        "glm_proxy_workers_silent": "max",
        "glm_proxy_ping_round_trip_seconds": "max",
        "glm_proxy_admission_resting_keys": "max",
        "glm_proxy_breaker_state": "max",
        "glm_proxy_config_last_reload_successful": "min",
        "glm_proxy_state_up": "min",
        "glm_proxy_cache_stored_bytes": "max",
        "glm_proxy_certificate_expiry_timestamp_seconds": "min",
        # The oldest: a process that did not follow is seen.
        "glm_proxy_config_last_reload_success_timestamp_seconds": "min",
        "process_start_time_seconds": "min",
        # Constant 1 with a label that tells: one series for each value there is.
        "glm_proxy_build": "max",
        "glm_proxy_endpoint": "max",
        "glm_proxy_config": "max",
    }
)
"""How the values of several processes become one, by family as the registry names it: of every
gauge and info. Counters and histograms always add up."""


class Entry(NamedTuple):
    """One metric."""

    name: str
    """As a query names it: a counter with `_total`, an info with `_info`."""
    kind: str
    """`counter`, `gauge`, `histogram` or `info`."""
    labels: tuple[str, ...]
    """Without a histogram's `le`."""
    meaning: str
    merge: Merge

    @classmethod
    def of(cls, family: Metric, labels: Iterable[str]) -> Self:
        """Raises KeyError for a gauge or an info that `MERGE` does not know."""
        adds_up = family.type in ("counter", "histogram")
        return cls(
            family.name + _SUFFIXES.get(family.type, ""),
            family.type,
            tuple(labels),
            family.documentation,
            "sum" if adds_up else MERGE[family.name],
        )

    @property
    def unit(self) -> str:
        """By the name's last words, as Prometheus has them; `count` where it has no unit."""
        name = self.name.removesuffix("_total")
        return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "count")


_SUFFIXES = {"counter": "_total", "info": "_info"}
_UNITS = {
    "_timestamp_seconds": "s, unix time",
    "_start_time_seconds": "s, unix time",
    "_seconds": "s",
    "_bytes": "bytes",
    "_ratio": "ratio",
    "_token_usage": "tokens",
    "_tokens": "tokens",
    "_info": "1",
    "_state": "0 or 1",
    "_up": "0 or 1",
    "_successful": "0 or 1",
}
