"""Virtual keys as values: what a token is, whose it is, what it may be used for."""

from __future__ import annotations

import hashlib
import hmac
import timeit
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Allowance
from proxy.core.policy import access
from proxy.core.policy.access import (
    RANDOM_BYTES,
    Denied,
    Known,
    Made,
    Reason,
    VirtualKey,
    identify,
    kept,
    make,
    may_use,
    revoked,
    rotated,
)

NOW = 1_800_000_000.0
HOUR = 3600.0


def random(number: int) -> bytes:
    """Bytes as a source of chance would give them, another row for each number."""
    return hashlib.shake_256(str(number).encode()).digest(RANDOM_BYTES)


def made(number: int = 1, name: str = "team-a", **changes: object) -> Made:
    return make(name, random(number), NOW, **changes)  # type: ignore[arg-type]


def by_id(*all_made: Made) -> dict[str, VirtualKey]:
    return {one.key.id: one.key for one in all_made}


def reason(token: str | None, keys: Mapping[str, VirtualKey], now: float = NOW) -> Reason | None:
    """Why it is denied; None: it is let in."""
    identity = identify(token, keys, now)
    return identity.reason if isinstance(identity, Denied) else None


# --- tokens ------------------------------------------------------------------------------------


def test_a_token_is_a_prefix_a_public_id_and_a_secret() -> None:
    one = made()
    prefix, secret = one.token[:20], one.token[20:]
    assert prefix == f"sk-glm-{one.key.id}-"
    assert access.id_of(one.token) == one.key.id
    assert access.is_id(one.key.id)
    assert len(secret) == 43  # 32 bytes
    assert secret.replace("-", "").replace("_", "").isalnum()


def test_what_is_kept_is_an_hmac_of_the_whole_token_under_a_salt_of_its_own() -> None:
    one, other = made(1), made(2)
    (secret,) = one.key.secrets
    assert secret.digest == hmac.digest(secret.salt, one.token.encode(), "sha256")
    assert len(secret.salt) == 16
    assert secret.salt != other.key.secrets[0].salt
    held = repr(one.key)
    assert one.token not in held
    assert one.token[20:] not in held


@pytest.mark.parametrize("size", [0, RANDOM_BYTES - 1, RANDOM_BYTES + 1])
def test_too_little_chance_makes_no_token(size: int) -> None:
    with pytest.raises(ValueError, match="random: must be"):
        make("a", bytes(size), NOW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name: must be 1 to 64 letters"),
        ({"name": "a b"}, "name: must be"),
        ({"name": "a\n"}, "name: must be"),
        ({"name": "ä"}, "name: must be"),
        ({"name": "a" * 65}, "name: must be"),
        ({"expires": NOW}, "expires: must be in the future"),
        ({"routes": ["", "a"]}, "routes: a pattern is"),
        ({"models": ["a\x00"]}, "models: a pattern is"),
        ({"models": ["x" * 257]}, "models: a pattern is"),
        ({"models": map(str, range(65))}, "models: at most 64 patterns"),
        ({"models": [f"{n}" + "\U0001f600" * 250 for n in range(9)]}, "models: at most 8192 bytes"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(**changes)  # type: ignore[arg-type]


# --- whose it is -------------------------------------------------------------------------------


def test_the_token_of_a_key_is_known() -> None:
    one, other = made(1), made(2)
    assert identify(one.token, by_id(one, other), NOW) == Known(one.key)


def test_without_a_token_nobody_is_known() -> None:
    assert reason(None, by_id(made())) == Reason.MISSING


def _wrong(token: str) -> dict[str, str]:
    head, secret = token[:20], token[20:]
    other = "B" if secret[-1] == "A" else "A"
    return {
        "empty": "",
        "the id alone": token[7:19],
        "without its secret": head,
        "one character short": token[:-1],
        "one character more": token + "A",
        "the last bit changed": token[:-1] + other,
        "another secret": head + "A" * 43,
        "in capitals": token.upper(),
        "a blank before": " " + token,
        "a line end after": token + "\n",
        "another prefix": "sk-abc" + token[6:],
        "twice": f"{token} {token}",
        "a surrogate": token[:-1] + "\udcff",
        "not ASCII": token[:-1] + "é",
        "a zero byte": token + "\x00",
        "the digest": "sk-glm-000000000000-" + "0" * 43,
        "long": "x" * 100_000,
    }


@pytest.mark.parametrize("case", _wrong(made().token))
def test_a_token_that_is_not_whole_and_exact_is_wrong(case: str) -> None:
    one = made()
    assert reason(_wrong(one.token)[case], by_id(one)) == Reason.WRONG


def test_two_tokens_with_the_same_beginning_are_two_tokens() -> None:
    """A key must not be found by a part of the secret (CVE-2026-35030)."""
    one = made()
    for length in range(len(one.token)):
        assert reason(one.token[:length] + "_" * (63 - length), by_id(one)) == Reason.WRONG


def test_the_token_of_one_key_does_not_open_another() -> None:
    one, other = made(1), made(2)
    assert reason(one.token, {one.key.id: other.key}) == Reason.WRONG
    crossed = f"sk-glm-{other.key.id}-{one.token[20:]}"
    assert reason(crossed, by_id(one, other)) == Reason.WRONG
    # A home that was tampered with: the other's record under this one's id, with its own secrets.
    moved = replace(other.key, secrets=one.key.secrets)
    assert reason(one.token, {one.key.id: moved}) == Reason.WRONG


@given(st.text(max_size=200))
def test_whatever_is_shown_is_wrong_and_nothing_raises(token: str) -> None:
    assert reason(token, by_id(made())) == Reason.WRONG


def test_a_key_is_over_when_it_expires_by_the_wall_clock() -> None:
    one = made(expires=NOW + HOUR)
    assert reason(one.token, by_id(one), NOW + HOUR - 0.001) is None
    assert reason(one.token, by_id(one), NOW + HOUR) == Reason.EXPIRED


def test_a_revoked_key_is_over_even_if_it_expires_later() -> None:
    one = made(expires=NOW + HOUR)
    over = revoked(one.key, NOW)
    assert reason(one.token, {over.id: over}) == Reason.REVOKED
    assert revoked(over, NOW + 1) == over


def test_who_does_not_hold_the_token_does_not_learn_that_its_key_is_over() -> None:
    one = made(expires=NOW + HOUR)
    over = revoked(one.key, NOW)
    assert reason(_wrong(one.token)["another secret"], {over.id: over}) == Reason.WRONG


def test_a_key_without_any_secret_opens_for_nobody() -> None:
    one = made()
    empty = replace(one.key, secrets=())
    assert reason(one.token, {empty.id: empty}) == Reason.WRONG
    assert reason(f"sk-glm-{empty.id}-" + "A" * 43, {empty.id: empty}) == Reason.WRONG


# --- rotating ----------------------------------------------------------------------------------


def test_a_rotated_key_has_two_tokens_until_the_overlap_is_over() -> None:
    first = made()
    second = rotated(first.key, random(2), NOW, HOUR)
    keys = by_id(second)
    assert second.key.id == first.key.id
    assert second.token != first.token
    assert second.key.living(NOW) == 2
    assert reason(first.token, keys, NOW + HOUR - 1) is None
    assert reason(first.token, keys, NOW + HOUR) == Reason.EXPIRED
    assert second.key.living(NOW + HOUR) == 1
    assert reason(second.token, keys, NOW + 1000 * HOUR) is None


def test_without_an_overlap_the_token_before_ends_at_once() -> None:
    first = made()
    second = rotated(first.key, random(2), NOW, 0)
    assert reason(first.token, by_id(second)) == Reason.WRONG
    assert len(second.key.secrets) == 1


def test_rotating_twice_within_the_overlap_leaves_the_two_newest() -> None:
    first = made()
    second = rotated(first.key, random(2), NOW, HOUR)
    third = rotated(second.key, random(3), NOW + 1, HOUR)
    keys = by_id(third)
    assert reason(first.token, keys, NOW + 2) == Reason.WRONG
    assert reason(second.token, keys, NOW + 2) is None
    assert reason(third.token, keys, NOW + 2) is None


def test_rotating_does_not_lengthen_a_keys_life() -> None:
    first = made(expires=NOW + HOUR)
    second = rotated(first.key, random(2), NOW, 9 * HOUR)
    assert reason(second.token, by_id(second), NOW + HOUR) == Reason.EXPIRED
    assert reason(first.token, by_id(second), NOW + HOUR) == Reason.EXPIRED


def test_a_key_that_is_over_is_not_rotated() -> None:
    one = made(expires=NOW + HOUR)
    with pytest.raises(ValueError, match="this key is revoked"):
        rotated(revoked(one.key, NOW), random(2), NOW, HOUR)
    with pytest.raises(ValueError, match="this key is expired"):
        rotated(one.key, random(2), NOW + HOUR, HOUR)


def test_what_another_process_revoked_meanwhile_stays_revoked() -> None:
    one = made()
    over, anew = revoked(one.key, NOW), rotated(one.key, random(2), NOW, HOUR).key
    assert kept(over, anew).revoked == NOW
    assert kept(over, anew).secrets == anew.secrets
    assert kept(one.key, anew) == anew
    assert kept(None, anew) == anew


# --- what it is for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "models", "route", "model", "may"),
    [
        ((), (), "default", "glm-4.6", True),
        ((), (), "default", None, True),
        (("fast*",), (), "fast-chat", "glm-4.6", True),
        (("fast*",), (), "default", "glm-4.6", False),
        (("fast*",), (), "fast-chat", None, True),
        (("fast*",), (), "default", None, False),
        (("fast",), (), "fast-chat", "glm-4.6", False),
        ((), ("glm-4-*", "glm-z1"), "default", "glm-4-flash", True),
        ((), ("glm-4-*", "glm-z1"), "default", "glm-z1", True),
        ((), ("glm-4-*",), "default", "glm-4.6", False),
        ((), ("glm-4-*",), "default", "GLM-4-flash", False),
        ((), ("glm-4-flash",), "default", "glm-4-flash\n", False),
        ((), ("*",), "default", "", True),
        ((), ("glm-*",), "default", None, False),
        ((), ("*",), "default", None, False),
        (("a",), ("x",), "a", "y", False),
        (("a",), ("x",), "b", "x", False),
        (("a",), ("x",), "a", "x", True),
    ],
)
def test_a_key_is_for_its_routes_and_models(
    routes: tuple[str, ...], models: tuple[str, ...], route: str, model: str | None, may: bool
) -> None:
    assert may_use(made(routes=routes, models=models).key, route, model) is may


# --- what is told of it ------------------------------------------------------------------------


def test_what_is_told_of_a_key_holds_nothing_of_its_tokens() -> None:
    one = made(models=["glm-*"], expires=NOW + HOUR, allowance=Allowance(concurrent=3))
    told = one.key.told(NOW)
    assert told == {
        "id": one.key.id,
        "name": "team-a",
        "state": "active",
        "created": NOW,
        "expires": NOW + HOUR,
        "revoked": None,
        "routes": [],
        "models": ["glm-*"],
        "limits": {"concurrent": 3},
        "tokens": 1,
    }
    assert one.key.label == f"team-a/{one.key.id}"
    assert one.key.told(NOW + HOUR)["state"] == "expired"
    assert revoked(one.key, NOW).told(NOW)["tokens"] == 0


# --- how long it takes -------------------------------------------------------------------------


def test_whatever_is_shown_is_compared_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody learns by the time it takes which keys there are, or how far a guess fits."""
    one = made()
    over = revoked(made(3).key, NOW)
    anew = rotated(made(4).key, random(5), NOW, HOUR)
    keys = by_id(one, anew) | {over.id: over}
    counted: list[str] = []
    digest = access._digest

    def counting(salt: bytes, token: str) -> bytes:
        counted.append(token)
        return digest(salt, token)

    monkeypatch.setattr(access, "_digest", counting)
    for token in (one.token, anew.token, made(3).token, made(4).token, *_wrong(one.token).values()):
        counted.clear()
        identify(token, keys, NOW)
        assert len(counted) == 2


def test_no_cache_is_needed() -> None:
    """Some 7 µs on an idle machine; the guard is two orders of magnitude off."""
    one = made()
    keys = by_id(one, *(made(number) for number in range(2, 200)))
    best = min(timeit.repeat(lambda: identify(one.token, keys, NOW), number=50, repeat=20)) / 50
    assert best < 1e-3
