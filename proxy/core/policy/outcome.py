"""How an attempt ended, as far as its candidate is to be blamed or praised for it."""

from __future__ import annotations

from enum import Enum, auto


class Outcome(Enum):
    """What a breaker and a sketch are told."""

    SUCCESS = auto()
    FAILURE = auto()
    NEUTRAL = auto()
    """Says nothing of the candidate: a 429, a client that left, a hedge that lost."""
