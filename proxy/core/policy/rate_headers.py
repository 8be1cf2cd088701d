"""What remains of a caller's limits, in the response headers that its SDK reads.

OpenAI: `x-ratelimit-limit-requests`, `-remaining-`, `-reset-` (a duration: `1s`, `6m0s`), and the
same for tokens (https://platform.openai.com/docs/guides/rate-limits). Anthropic:
`anthropic-ratelimit-requests-limit`, `-remaining`, `-reset` (RFC 3339), and the same for tokens
(https://docs.anthropic.com/en/api/rate-limits).
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil

from proxy.core.policy.limits import Left, Taken


def rate_headers(taken: Taken, dialect: str, wall: float) -> list[tuple[str, str]]:
    """Headers for the limits that there are; `wall` is unix seconds."""
    headers: list[tuple[str, str]] = []
    for what, left in (("requests", taken.requests), ("tokens", taken.tokens)):
        if left is None:
            continue
        if dialect == "anthropic":
            headers += _anthropic(what, left, wall)
        else:
            headers += _openai(what, left)
    return headers


def _openai(what: str, left: Left) -> list[tuple[str, str]]:
    return [
        (f"x-ratelimit-limit-{what}", str(left.limit)),
        (f"x-ratelimit-remaining-{what}", str(left.remaining)),
        (f"x-ratelimit-reset-{what}", _duration(left.reset)),
    ]


def _anthropic(what: str, left: Left, wall: float) -> list[tuple[str, str]]:
    reset = datetime.fromtimestamp(ceil(wall + left.reset), UTC)
    return [
        (f"anthropic-ratelimit-{what}-limit", str(left.limit)),
        (f"anthropic-ratelimit-{what}-remaining", str(left.remaining)),
        (f"anthropic-ratelimit-{what}-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ")),
    ]


def _duration(seconds: float) -> str:
    """As Go writes one: `120ms`, `1s`, `6m0s`, `2h0m0s`; never less than it is."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
