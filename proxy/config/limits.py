"""Settings of how much callers may use: of each key, and of all of them together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.config.types import Section

Most = Annotated[int, Field(strict=True, ge=1, le=10**12)]


class Allowance(Section):
    """How much may be used. What is not said is not limited."""

    requests_per_minute: Most | None = None
    """Requests that begin, in any minute."""
    tokens_per_minute: Most | None = None
    """Tokens in and out, as the upstream counts them; estimated where an answer was cut."""
    concurrent: Most | None = None
    """Requests under way at once."""
    tokens_per_day: Most | None = None
    """Tokens in and out of one day (UTC)."""


class Limits(Section):
    """What is over a limit is refused with 429 and Retry-After."""

    total: Allowance = Allowance()
    """Of all callers together."""
    per_key: Allowance = Allowance()
    """Of each caller whose key says nothing else: a virtual key, or with `access: open` the
    caller's own key or address."""
