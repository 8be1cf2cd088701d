"""The deadlines a caller may set for its own request, by headers, within the route's.

    x-glm-proxy-timeout-first-token: 5s

Units are those of the settings; a bare number is seconds. Nothing may outlast the route's `total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.config import Timeouts
from proxy.config.units import as_duration
from proxy.core.wire.headers import DEADLINE
from proxy.errors import ClientError

LEAST: Final = 0.01
"""Seconds. Less is taken for this: it fails at once all the same, and in an orderly way."""

_DEADLINES: Final = {name.replace("_", "-"): name for name in Timeouts.model_fields}


def overridden(timeouts: Timeouts, headers: Mapping[str, str]) -> Timeouts:
    """`timeouts` of the route with those of the request; `headers` have names in lower case.

    A caller can shorten `total` and never lengthen it; the others are free up to that. Raises
    ClientError, naming the header and what to write.
    """
    wanted = {
        _deadline(name): _seconds(name, value)
        for name, value in headers.items()
        if name.startswith(DEADLINE)
    }
    if not wanted:
        return timeouts
    total = min(timeouts.total, wanted.get("total", timeouts.total))
    update = {name: min(seconds, total) for name, seconds in wanted.items()}
    return timeouts.model_copy(update=update)


def _deadline(header: str) -> str:
    name = _DEADLINES.get(header.removeprefix(DEADLINE))
    if name is None:
        known = ", ".join(_DEADLINES)
        raise ClientError(
            f"there is no header {header[:64]}; after {DEADLINE} comes one of {known}"
        )
    return name


def _seconds(header: str, value: str) -> float:
    try:
        return max(LEAST, as_duration(value))
    except ValueError as error:
        raise ClientError(f"header {header}: {error}") from None
