"""How many tokens something took: as the upstream says, and estimated where it does not say."""

from __future__ import annotations

from typing import Final

from proxy.core.record import Usage

BYTES_PER_TOKEN: Final = 4
"""About right for English, and for Chinese, whose characters are three bytes."""
MOST: Final = 10_000_000
"""Tokens of one attempt, in or out: ten times what models take in. An upstream that says more is
not believed, since one such answer would use up a limit for years."""


def estimated(size: int) -> int:
    """Tokens in so many bytes; something is never nothing."""
    return -(-size // BYTES_PER_TOKEN)


def spent(usage: Usage | None, *, prompt: int, came: int) -> int:
    """Tokens in and out. What `usage` leaves out is `prompt`, and what `came` of the answer.

    An upstream counts an answer at its end only. Of one that was cut it had made at least what
    came, so that counts if it said less.
    """
    if usage is None:
        return prompt + came
    told_in, told_out = _believed(usage.input_tokens), _believed(usage.output_tokens)
    answer = came if told_out is None else told_out
    if usage.partial:
        answer = max(answer, came)
    return (prompt if told_in is None else told_in) + answer


def _believed(told: int | None) -> int | None:
    return told if told is None or told <= MOST else None
