"""Settings of what is done about a slow or failing upstream: attempts, hedging, admission."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from proxy.config.problems import shown
from proxy.config.types import Count, CountOrZero, OrOff, Section
from proxy.config.units import DURATION, Percentile, Quantity, Seconds, SecondsOrZero, Share


class Breaker(Section):
    """Leaves a candidate alone that fails again and again, and probes it back."""

    failures: Count = 5
    """Failures in a row, all of them within `within`, that open it."""
    within: Seconds = 10.0
    """How long a failure counts."""
    open_for: Seconds = 5.0
    """How long it stays open before one request probes; longer after each failed probe."""


class Attempts(Section):
    """How often, and at whose cost, a failed attempt is followed by another."""

    retries: CountOrZero = 2
    """Further attempts of one exchange after failed ones, other candidates included. Waiting for
    the own in-flight limit, and hedges, are counted apart."""
    retry_budget: Share = 0.1
    """Of all requests of this process: more retries than this are not made (a few always are)."""
    overload_wait: SecondsOrZero = 0.0
    """How long a request is held before the only candidate is tried again after the platform said
    that it is overloaded (1305). 0: the caller is told to come back, with Retry-After."""
    breaker: Annotated[Breaker | Literal["off"], OrOff("{failures: 5}")] = Breaker()
    """Per candidate; `off` switches it off."""


class Hedge(Section):
    """A second attempt beside one that is late; the first useful event wins, the other is
    cancelled."""

    after: Percentile = 0.9
    """Late is what this share of the candidate's own first tokens were not."""
    min: Seconds = 0.8
    """Never sooner than this."""
    max: Seconds = 10.0
    """Never later than this."""
    budget: Share = 0.05
    """Of the route's streamed requests; a few more in a row, while they have been rare."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            least, most = map(Quantity(DURATION).text, (self.min, self.max))
            raise ValueError(f"min, {least}, is more than max, {most}; lower min or raise max")
        return self


HedgeOrOff = Annotated[Hedge | Literal["off"], OrOff("{after: p90}")]

_LIMITS: Final = ("learned", "model", "off")
_MOST_PLACES: Final = 10_000


def _limit(value: object) -> object:
    """One sentence for what the two halves of the union would tell in two."""
    if value is False:  # YAML 1.1 reads a bare `off` so
        return "off"
    number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_PLACES
    if number or value in _LIMITS:
        return value
    words = f"{', '.join(_LIMITS)} or a number from 1 to {_MOST_PLACES}"
    raise ValueError(f"found {shown(value)}, must be {words}")


class Admission(Section):
    """How many requests of one key may run on one model at once, and who waits how long."""

    limit: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=_MOST_PLACES)]
        | Literal["learned", "model", "off"],
        BeforeValidator(_limit),
    ] = "learned"
    """learned: found from the upstream's own refusals (1302). model: what the model's record says,
    learned where it is silent. A number: that many. off: no limit and no waiting."""
    wait: SecondsOrZero = 30.0
    """Longest wait for a free place; a request that would wait longer is refused at once (429)."""
    queue: Count = 1000
    """Most requests that wait at one place: a model at an endpoint, with one group of keys. When
    they are more, the last one of the caller with the most of them is refused (429)."""
