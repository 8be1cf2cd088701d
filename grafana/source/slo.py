"""The objective: 95 % of chat exchanges show their first content within 5 s.

An exchange that failed before it had any, with a 5xx of ours or of the upstream's, is a miss.
"""

from __future__ import annotations

from collections.abc import Iterable

from grafana.source.panels import Steps
from grafana.source.promql import CANDIDATE, ratio, select, total, within
from proxy.observe.objective import SHARE, TARGET

SHARES: Steps = (("red", None), ("orange", 0.9), ("green", SHARE))
"""What a share is coloured by."""

_BUDGET = round(1 - SHARE, 6)
"""The share that may miss."""
_TARGET_BOUND = str(TARGET)
"""The target's bucket, as the metric's `le` spells it."""

_CHAT = 'kind="chat"'
_CONTENT = "glm_proxy_first_content_seconds"


def share(window: str, by: Iterable[str] = ()) -> str:
    """Exchanges that met the target, out of all that should have; nothing without traffic.

    `A or B` of series with different labels has all of both, and is right when one is missing.
    """
    content = [
        f"rate({select(f'{_CONTENT}_{part}', CANDIDATE, _CHAT, *bound)}[{window}])"
        for part, bound in (("bucket", (within(_TARGET_BOUND),)), ("count", ()))
    ]
    exchanges = select("glm_proxy_exchanges_total", CANDIDATE, _CHAT, 'status_class="5xx"')
    failed = f"rate({exchanges}[{window}])"
    good = total(f"{content[0]} or 0 * {failed}", by=by)
    return ratio(good, total(f"{content[1]} or {failed}", by=by))


def burn(window: str) -> str:
    """How many times faster than allowed the budget goes: at 1 it lasts exactly its period."""
    return f"(1 - {share(window)}) / {_BUDGET}"
