"""The objective: 95 % of chat exchanges show their first content within 5 s.

An exchange that failed before it had any, with a 5xx of ours or of the upstream's, is a miss.
"""

from __future__ import annotations

from collections.abc import Iterable

from grafana.source.promql import CANDIDATE, ratio, select, total, within

OBJECTIVE = 0.95
BUDGET = 0.05
"""The share that may miss."""
TARGET_BOUND = "5.0"
"""The bucket of the 5 s target, as the metric's `le` spells it."""

_CHAT = 'kind="chat"'
_CONTENT = "glm_proxy_first_content_seconds"


def share(window: str, by: Iterable[str] = ()) -> str:
    """Exchanges that met the target, out of all that should have; nothing without traffic.

    `A or B` of series with different labels has all of both, and is right when one is missing.
    """
    content = [
        f"rate({select(f'{_CONTENT}_{part}', CANDIDATE, _CHAT, *bound)}[{window}])"
        for part, bound in (("bucket", (within(TARGET_BOUND),)), ("count", ()))
    ]
    exchanges = select("glm_proxy_exchanges_total", CANDIDATE, _CHAT, 'status_class="5xx"')
    failed = f"rate({exchanges}[{window}])"
    good = total(f"{content[0]} or 0 * {failed}", by=by)
    return ratio(good, total(f"{content[1]} or {failed}", by=by))


def burn(window: str) -> str:
    """How many times faster than allowed the budget goes: at 1 it lasts exactly its period."""
    return f"(1 - {share(window)}) / {BUDGET}"
