"""How a number varies from one request to the next: the vocabulary profiles are written in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol


class Distribution(Protocol):
    """Something a value can be drawn from; the random source belongs to the request."""

    def draw(self, random: Random) -> float: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: float

    def draw(self, random: Random) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything from `low` to `high`."""

    low: float
    high: float

    def draw(self, random: Random) -> float:
        return random.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half the draws below `median`; two thirds of them within a factor of `e ** sigma`."""

    median: float
    sigma: float

    def draw(self, random: Random) -> float:
        return random.lognormvariate(math.log(self.median), self.sigma)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several distributions, each with its share of the draws; shares sum to 1."""

    parts: tuple[tuple[float, Distribution], ...]

    def draw(self, random: Random) -> float:
        left = random.random()
        for share, part in self.parts:
            left -= share
            if left < 0:
                return part.draw(random)
        return self.parts[-1][1].draw(random)
