"""Who an answer is: log id, creation time, random source, and the headers that name it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from email.utils import formatdate
from random import Random

from proxy.simulator.frames import Identity
from proxy.simulator.ledger import Entry, Headers

_BEIJING = 8 * 3600
EPOCH = 1767196800
"""2026-01-01 00:00 in Beijing, Unix seconds: where the clock of a reproducible run begins."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, who its answer is, and the random source that belongs to it."""

    entry: Entry
    identity: Identity
    random: Random


def asked(entry: Entry, number: int, seed: int, *, reproducible: bool) -> Asked:
    """Seed and `number` give the random source, and if told so, id and time come from them too.

    `number` counts the requests of one key: the n-th waits for the same things whoever else asks.
    """
    random = Random(f"{seed}/{number}")
    digits = f"{random.getrandbits(64):016x}" if reproducible else os.urandom(8).hex()
    created = EPOCH + entry.number if reproducible else int(time.time())
    return Asked(entry, identity_at(created, digits), random)


def another(identity: Identity, later: float) -> Identity:
    """The identity of a second generation, begun `later` seconds after the first."""
    digits = f"{int(identity.id[14:], 16) ^ 0xFFFF_FFFF_FFFF_FFFF:016x}"
    return identity_at(identity.created + int(later), digits)


def identity_at(created: int, digits: str) -> Identity:
    """Beijing time as yyyymmddHHMMSS, then 16 hex digits."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(created + _BEIJING))
    return Identity(stamp + digits, created)


def common_headers(asked: Asked, head_at: float) -> Headers:
    """What the service's front end adds to every response."""
    identity = asked.identity
    headers = [
        (b"server", b"nginx"),
        (b"date", formatdate(identity.created, usegmt=True).encode()),
        (b"vary", b"Origin"),
        (b"x-log-id", identity.id.encode()),
        (b"x-process-time", f"{head_at:.3f}".encode()),
        (b"set-cookie", f"acw_tc={identity.id[14:]};path=/;HttpOnly;Max-Age=1800".encode()),
    ]
    if asked.entry.connection.tls:
        headers.append((b"strict-transport-security", b"max-age=31536000; includeSubDomains"))
    return headers
