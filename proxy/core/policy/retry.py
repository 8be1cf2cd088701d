"""What a failed attempt means: who is asked next, when, and who is to blame.

The upstream's own `error.code` decides first, because its status does not: a dozen codes come with
429, and some of them must never be asked again. What we saw ourselves (a reset, a timeout) decides
next, and the status last. Nothing is repeated by the same candidate that may have done the work.

Codes: https://docs.bigmodel.cn/cn/api/api-code
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from math import isfinite
from typing import Final, NamedTuple

from proxy.core.policy.outcome import Outcome
from proxy.errors import (
    AnswerTooLarge,
    EmptyStream,
    PoolExhausted,
    ProxyError,
    TooBusy,
    UpstreamError,
    UpstreamReset,
    UpstreamSaid,
)


class Reaction(Enum):
    """Who is asked next. None of them promises that anybody is: budget and patience decide."""

    RETURN = auto()
    """Nobody: the caller gets the failure as it is; the same request would fail again."""
    KEY = auto()
    """Another key of the same endpoint, while this one rests. Without another: as RETURN."""
    LIMIT = auto()
    """The same candidate, through admission's queue, or another key: the account has as many
    requests in flight as it may."""
    OVERLOAD = auto()
    """Another candidate; the only one again after a long pause: the platform is overloaded."""
    AGAIN = auto()
    """Another candidate; the only one again after a short pause: it failed, and says or proves
    that no answer is being made."""
    ELSEWHERE = auto()
    """Another candidate only: this one may be making the answer, or will fail the same way."""


class Failure(NamedTuple):
    """How an attempt failed, before anything of it was sent to the client."""

    error: ProxyError | None
    """What we saw. None: the upstream told an error, and the rest of this says which."""
    status: int | None
    code: str | None
    """The upstream's own: of an error body or event, or a `finish_reason` that stands for a
    failure (`network_error`, `abort`)."""
    message: str | None
    """The upstream's own words: a used-up quota's reset time is in them."""
    retry_after: str | None
    """The header as it came."""
    reused: bool
    """The connection had carried a request before."""
    answered: bool
    """Any byte of a response came."""

    @property
    def name(self) -> str:
        """The failure in one word, for logs: the upstream's code, or ours, or the status."""
        if self.code:
            return self.code
        return f"status_{self.status}" if self.error is None else self.error.code


class Verdict(NamedTuple):
    """What follows from a failure."""

    reaction: Reaction
    outcome: Outcome
    """What the candidate's breaker is told."""
    pause: float
    """Seconds before the same candidate is asked again; another one, or another key, is asked at
    once."""
    rest: float | None
    """Seconds for which this key is not used; None: it need not rest."""


OWN_LIMIT: Final = frozenset({"1302", "rate_limit_error"})
"""Codes that say that the key has as many requests in flight as it may."""
OVERLOADED_FOR: Final = 30.0
"""Seconds: a platform that is overloaded has been so for minutes; callers are told to wait."""
MOST_RETRY_AFTER: Final = 60.0
"""Seconds: nobody waits longer because a header says so; days have been seen."""
LONGEST_REST: Final = 7 * 86_400.0
FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 2.0
FREQUENCY_FIRST_BACKOFF: Final = 1.0
FREQUENCY_LONGEST_BACKOFF: Final = 30.0
OVERLOAD_JITTER: Final = 0.5
"""`overload_wait` is made longer by up to this share."""
SIGN_IN_REST: Final = 60.0
ACCOUNT_REST: Final = 300.0
"""For balance, quota and plan, where nothing says when it is over."""

_DAY: Final = 86_400.0
_BEIJING: Final = timezone(timedelta(hours=8))
"""All times in the upstream's messages; China has no summer time."""

_FREQUENCY: Final = "1303"
_DAILY: Final = "1304"
_SIGN_IN: Final = ("1000", "1001", "1002", "1003", "1004", "1005", "authentication_error")
_ACCOUNT: Final = ("1110", "1111", "1112", "1113", "1121", "billing_error")
_PLAN: Final = ("1309", "1311", "1313", "1314", "1315")
_WINDOWS: Final = ("1308", "1310", "1316", "1317", "1318", "1319", "1320", "1321")
_QUOTA: Final = (_DAILY, *_WINDOWS)

# Names are Anthropic's error types, said where there is no number:
# https://docs.anthropic.com/en/api/errors
_BY_CODE: Final[Mapping[str, Reaction]] = {
    **dict.fromkeys(("1210", "1211", "1212", "1213", "1214", "1215"), Reaction.RETURN),
    **dict.fromkeys(("1220", "1221", "1222", "1231", "1261", "1300", "1301"), Reaction.RETURN),
    **dict.fromkeys(("invalid_request_error", "permission_error"), Reaction.RETURN),
    **dict.fromkeys(("not_found_error", "request_too_large"), Reaction.RETURN),
    **dict.fromkeys((*_SIGN_IN, *_ACCOUNT, *_PLAN, *_QUOTA), Reaction.KEY),
    **dict.fromkeys(("1302", _FREQUENCY, "rate_limit_error"), Reaction.LIMIT),
    **dict.fromkeys(("1305", "1312", "overloaded_error"), Reaction.OVERLOAD),
    **dict.fromkeys(("500", "1120", "1200", "1230", "1234"), Reaction.AGAIN),
    **dict.fromkeys(("api_error", "timeout_error"), Reaction.AGAIN),
    **dict.fromkeys(("network_error", "abort"), Reaction.AGAIN),  # finish reasons
}

CODES: Final = frozenset(_BY_CODE)
"""All codes that are known."""

_BY_STATUS: Final[Mapping[int, Reaction]] = {
    401: Reaction.KEY,
    408: Reaction.AGAIN,  # the request did not arrive whole, so nobody works on it
    429: Reaction.OVERLOAD,
    500: Reaction.AGAIN,
    502: Reaction.AGAIN,
    503: Reaction.OVERLOAD,
    504: Reaction.AGAIN,
    529: Reaction.OVERLOAD,
}


def judge(
    failure: Failure, *, again: int, roll: float, wall: float, overload_wait: float
) -> Verdict:
    """What follows from `failure`.

    `again` is how often this candidate was already repeated for this request. `roll` is a random
    number from 0 to 1. `wall` is Unix seconds, and only compared with dates the upstream names.
    `overload_wait` is the setting in seconds; what 0 means is for who asks to heed.
    """
    code = None if failure.code is None else failure.code.strip()
    reaction = _reaction(failure, code)
    pause = max(
        _pause(reaction, code, again, roll, overload_wait), _asked_pause(reaction, failure, wall)
    )
    rest = _rest(failure, code, wall) if reaction is Reaction.KEY else None
    if code == _FREQUENCY:
        rest = pause  # too often, not too many: another key may be asked meanwhile
    return Verdict(reaction, _outcome(failure, reaction), pause, rest)


def retry_after(value: str | None, wall: float) -> float | None:
    """The seconds a Retry-After header asks for, from 0 to 60; None when it says nothing.

    It is a number of seconds or a date, in any of HTTP's three spellings. `wall` is Unix seconds.
    """
    seconds = _seconds(value, wall)
    return None if seconds is None else min(seconds, MOST_RETRY_AFTER)


# --- who is asked next -------------------------------------------------------------------------


def _reaction(failure: Failure, code: str | None) -> Reaction:
    told = None if code is None else _BY_CODE.get(code)
    if told is not None:
        return told
    error = failure.error
    if error is None or isinstance(error, UpstreamSaid):
        return _by_status(_status(failure, code))
    return _by_error(error, failure)


def _by_error(error: ProxyError, failure: Failure) -> Reaction:
    match error:
        case TooBusy():
            return Reaction.ELSEWHERE  # this key is full; another candidate's may not be
        case AnswerTooLarge():
            return Reaction.RETURN  # another one's would be as large
        case UpstreamReset() if failure.reused and not failure.answered:
            # The idle connection was closed while the request was on its way: nobody read it.
            return Reaction.AGAIN
        case EmptyStream():
            return Reaction.AGAIN
        case UpstreamError():
            return Reaction.AGAIN if error.retryable else Reaction.ELSEWHERE
        case _:
            return Reaction.RETURN  # the caller's own fault, or ours


def _by_status(status: int | None) -> Reaction:
    if status is None:
        return Reaction.ELSEWHERE
    # The rest is the caller's fault, or a redirect, an odd 5xx, an error in a stream of status 200.
    usual = Reaction.RETURN if 400 <= status < 500 else Reaction.ELSEWHERE
    return _BY_STATUS.get(status, usual)


def _status(failure: Failure, code: str | None) -> int | None:
    """The status; where an error came with 200, what its code says if that is a status."""
    status = failure.status
    if (status is None or status < 400) and code is not None and re.fullmatch("[45][0-9]{2}", code):
        return int(code)
    return status


def _outcome(failure: Failure, reaction: Reaction) -> Outcome:
    """Whether it shows the candidate sick, and not its limits, the key, the caller or us.

    One that can say by a code of its own what is wrong with the request is well.
    """
    if reaction is Reaction.RETURN and _BY_CODE.get((failure.code or "").strip()) is reaction:
        return Outcome.SUCCESS
    if failure.status == 429 or isinstance(failure.error, PoolExhausted | TooBusy):
        return Outcome.NEUTRAL
    if reaction is Reaction.OVERLOAD:
        sick = failure.status is not None and failure.status >= 500
    else:
        sick = reaction in (Reaction.AGAIN, Reaction.ELSEWHERE)
    return Outcome.FAILURE if sick else Outcome.NEUTRAL


# --- when --------------------------------------------------------------------------------------


def _pause(
    reaction: Reaction, code: str | None, again: int, roll: float, overload_wait: float
) -> float:
    if reaction is Reaction.OVERLOAD:
        return overload_wait * (1.0 + OVERLOAD_JITTER * roll)
    if code == _FREQUENCY:
        return _backoff(FREQUENCY_FIRST_BACKOFF, FREQUENCY_LONGEST_BACKOFF, again, roll)
    if reaction in (Reaction.LIMIT, Reaction.AGAIN):
        return _backoff(FIRST_BACKOFF, LONGEST_BACKOFF, again, roll)
    return 0.0


def _backoff(first: float, longest: float, again: int, roll: float) -> float:
    """Doubled each time, and jittered down to a half so that many do not come back as one."""
    seconds: float = min(longest, first * 2 ** min(again, 16))
    return seconds * (0.5 + roll / 2)


def _asked_pause(reaction: Reaction, failure: Failure, wall: float) -> float:
    """What Retry-After asks for, where the same candidate may be asked again."""
    if reaction in (Reaction.LIMIT, Reaction.OVERLOAD, Reaction.AGAIN):
        return retry_after(failure.retry_after, wall) or 0.0
    return 0.0


def _rest(failure: Failure, code: str | None, wall: float) -> float:
    if code in _QUOTA:
        reset = _reset(failure.message or "", wall)
        if reset is not None:
            return min(reset, LONGEST_REST)
    asked = _seconds(failure.retry_after, wall) or 0.0
    return min(max(_usual_rest(code, wall), asked), LONGEST_REST)


def _usual_rest(code: str | None, wall: float) -> float:
    if code == _DAILY:
        return _DAY - (wall + 8 * 3600) % _DAY  # until the next midnight in Beijing
    if code in (*_ACCOUNT, *_PLAN, *_WINDOWS):
        return ACCOUNT_REST
    return SIGN_IN_REST


def _reset(message: str, wall: float) -> float | None:
    """Seconds until the reset time in a quota's message; None without one to come.

    Of several dates the nearest is taken: a key that wakes too soon costs one refusal.
    """
    ahead = []
    for text in re.findall(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}", message):
        try:
            at = datetime.fromisoformat(text).replace(tzinfo=_BEIJING).timestamp()
        except ValueError:  # digits, but no date
            continue
        if at > wall:
            ahead.append(at - wall)
    return min(ahead, default=None)


def _seconds(value: str | None, wall: float) -> float | None:
    """What a Retry-After header says, not below 0 and without an upper bound."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _date(value)
        seconds = float("nan") if until is None else until - wall
    return max(0.0, seconds) if isfinite(seconds) else None


def _date(value: str) -> float | None:
    """Unix seconds of an HTTP date. https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7"""
    try:
        date = parsedate_to_datetime(value)
    except (OverflowError, ValueError):  # a year of thirty digits is an overflow
        return None
    return date.replace(tzinfo=UTC).timestamp() if date.tzinfo is None else date.timestamp()
