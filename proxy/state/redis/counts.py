"""What is used of the limits, in Redis: its clock, its scripts, all subjects or none."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, get_args

from proxy.config import Allowance
from proxy.core.policy.limits import LEASE, Left, Refusal, Taken, Want, What, least
from proxy.state.counting import ALIVE, MOST_TEACHERS, Held, Settlement
from proxy.state.owed import Owed
from proxy.state.redis.link import Argument, Link, Script
from proxy.state.redis.words import not_redis

_LEASE: Final = round(LEASE * 1000)
_ALIVE: Final = round(ALIVE * 1000)
_WHAT: Final[tuple[What, ...]] = get_args(What)
_AT_ONCE: Final = 500
"""Leases that one script renews."""


class RedisCounts:
    """The link is its own. Everything raises StateError."""

    def __init__(
        self, link: Link, prefix: str, clock: tuple[Argument, Argument] = ("", "")
    ) -> None:
        """`clock`: milliseconds and milliseconds of unix time instead of the server's own."""
        self.link = link
        self.clock = clock
        self._prefix = prefix
        self._script = Script.of("counts.lua")
        self._id = secrets.token_hex(8)
        self._replicas = f"{prefix}:replicas"

    async def reach(self) -> None:
        await self.link.connect()

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        answer = await self._run(
            self._keys(wants),
            "take",
            lease,
            _LEASE,
            *(one for want in wants for one in _five(want)),
        )
        return _taken(self.link.name, wants, answer)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        calls = []
        for wants, lease, tokens in settlements:
            told = "" if tokens is None else tokens
            fives = (one for want in wants for one in _five(want))
            calls.append((self._keys(wants), ("settle", *self.clock, lease, told, *fives)))
        await self.link.run_all(self._script, calls)

    async def renew(self, held: Collection[Held], *, again: bool) -> None:
        leases: dict[str, list[str]] = {}
        for lease, wants in held:
            for want in wants:
                leases.setdefault(want.subject, []).append(lease)
        what = "again" if again else "renew"
        calls = [
            ((self._places(subject),), (what, *self.clock, _LEASE, *some))
            for subject, all_of_it in leases.items()
            for some in _parts(all_of_it)
        ]
        await self.link.run_all(self._script, calls)

    async def add(self, owed: Sequence[Owed]) -> None:
        calls = [
            (
                self._keys((one.want,)),
                ("add", *self.clock, *_five(one.want), one.requests, one.tokens, one.today),
            )
            for one in owed
        ]
        await self.link.run_all(self._script, calls)

    async def beat(self) -> int:
        replicas = await self._run([self._replicas], "beat", self._id, _ALIVE)
        if not isinstance(replicas, int) or not 1 <= replicas <= 10_000:
            raise not_redis(self.link.name)
        return replicas

    async def leave(self) -> None:
        await self.link.ask(("ZREM", self._replicas, self._id))

    async def swap(self, link: Link, lessons: bytes) -> list[bytes]:
        """By a link that no request waits for."""
        await link.connect()
        found = await link.run(
            self._script,
            (f"{self._prefix}:teachers", f"{self._prefix}:lessons"),
            *("swap", *self.clock, self._id, _ALIVE, lessons, MOST_TEACHERS),
        )
        if not isinstance(found, list):
            raise not_redis(link.name)
        return [body for body in found if isinstance(body, bytes)]

    async def _run(self, keys: Sequence[str], what: str, *arguments: Argument) -> Any:
        return await self.link.run(self._script, keys, what, *self.clock, *arguments)

    def _keys(self, wants: Sequence[Want]) -> list[str]:
        return [
            key
            for want in wants
            for key in (f"{self._prefix}:used:{want.subject}", self._places(want.subject))
        ]

    def _places(self, subject: str) -> str:
        return f"{self._prefix}:places:{subject}"


def _five(want: Want) -> Iterator[Argument]:
    allowance: Allowance = want.allowance
    for limit in (
        allowance.requests_per_minute,
        allowance.tokens_per_minute,
        allowance.concurrent,
        allowance.tokens_per_day,
    ):
        yield "" if limit is None else limit
    yield want.tokens


def _parts(leases: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(leases), _AT_ONCE):
        yield leases[start : start + _AT_ONCE]


def _taken(name: str, wants: Sequence[Want], answer: Any) -> Taken:
    """The script's answer. Raises StateError for anything else."""
    whole = isinstance(answer, list) and len(answer) == 3 + 4 * len(wants)
    if not whole or not all(isinstance(one, int) for one in answer):
        raise not_redis(name)
    who, what, wait, *rest = answer
    if not (0 <= who <= len(wants) and 0 <= what <= len(_WHAT) and wait >= 0):
        raise not_redis(name)
    refused = Refusal(_WHAT[what - 1], wants[who - 1].subject, wait / 1000) if who else None
    each = list(zip(wants, *(rest[start::4] for start in range(4)), strict=True))
    return Taken(
        refused,
        least(
            Left(want.allowance.requests_per_minute, remaining, reset / 1000)
            for want, remaining, reset, _, _ in each
            if want.allowance.requests_per_minute is not None
        ),
        least(
            Left(want.allowance.tokens_per_minute, remaining, reset / 1000)
            for want, _, _, remaining, reset in each
            if want.allowance.tokens_per_minute is not None
        ),
    )
