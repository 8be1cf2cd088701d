"""What follows each error code of the upstream: who is asked next, and what the caller gets."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pytest

from proxy.simulator import Fault
from proxy.simulator.refusals import CODES
from tests.fakes.raw_client import Answer, chat
from tests.fakes.several import MESSAGES, Several, several

RETURNED: Final = (
    *("1210", "1211", "1212", "1213", "1214", "1215", "1220", "1221", "1222", "1231"),
    *("1261", "1300", "1301"),
)
OF_THE_KEY: Final = (
    *("1000", "1001", "1002", "1003", "1004", "1005"),
    *("1110", "1111", "1112", "1113", "1121"),
    *("1304", "1308", "1309", "1310", "1311", "1313", "1314", "1315"),
    *("1316", "1317", "1318", "1319", "1320", "1321"),
)
OWN_LIMIT: Final = ("1302", "1303")
OVERLOAD: Final = ("1305", "1312")
REPEATED: Final = ("500", "1120", "1200", "1230", "1234")
ALL: Final = (*RETURNED, *OF_THE_KEY, *OWN_LIMIT, *OVERLOAD, *REPEATED)


class Case(NamedTuple):
    """What is expected where only the very first call fails."""

    keys: list[str]
    """Of the calls, in order: endpoint and number of the key."""
    answered: bool
    final: bool = False
    """The caller is told not to ask again."""
    later: bool = False
    """The caller is told when to ask again."""


def expected(code: str, scene: str) -> Case:
    if code in RETURNED:
        return Case(["a1"], answered=False)
    if code in OF_THE_KEY:
        if scene == "two keys":
            return Case(["a1", "a2"], answered=True)
        return Case(["a1"], answered=False, final=True)
    if code in OVERLOAD:
        if scene == "two candidates":
            return Case(["a1", "b1"], answered=True)
        return Case(["a1"], answered=False, later=True)
    if code in OWN_LIMIT:
        return Case(["a1", "a2" if scene == "two keys" else "a1"], answered=True)
    return Case(["a1", "b1" if scene == "two candidates" else "a1"], answered=True)


def fault(code: str, *, in_stream: bool = False, **fields: Any) -> Fault:
    """The simulator knows the status of each code, but for those only named in new tables."""
    if in_stream:
        return Fault(code=code, error_at_event=0, **fields)
    return Fault(code=code, status=None if code in CODES else 429, **fields)


def test_the_table_has_every_code_once() -> None:
    assert len(set(ALL)) == len(ALL) == 47
    assert set(CODES) <= set(ALL)


def code_of(answer: Answer) -> str:
    """The code of an error body, or of the first event."""
    first = answer.body.removeprefix(b"data: ").partition(b"\n")[0]
    return str(orjson.loads(first)["error"]["code"])


SCENES: Final[dict[str, dict[str, Any]]] = {
    "one key": {"names": "a"},
    "two keys": {"names": "a", "keys": 2},
    "two candidates": {"names": "ab"},
}
GROUPS: Final = {code: f"of-{code}" for code in ALL}


def apart(names: str) -> list[dict[str, Any]]:
    """A route for each code, with keys of its own: no code knows what another one did."""
    return [
        {
            "name": f"for-{code}",
            "match": {"header": {"x-code": code}},
            "candidates": [{"endpoint": name, "keys": group} for name in names],
        }
        for code, group in GROUPS.items()
    ]


async def seen(proxy: Several, code: str, *, in_stream: bool) -> Case | str:
    """What happens when the first call of the first endpoint fails with `code`."""
    before = len(proxy.entries)
    proxy.inject(fault(code, in_stream=in_stream), on="a")
    began = time.monotonic()
    answer = await proxy.ask(f"x-code: {code}")
    took = time.monotonic() - began
    keys = proxy.keys[before:]
    answered = answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n")
    answered = answered and b'"error"' not in answer.body
    if int(answer.headers["x-glm-proxy-attempts"]) != len(keys):
        return "attempts not told"
    if answer.headers["x-glm-proxy-endpoint"] != keys[-1][0]:
        return "endpoint not told"
    if not answered and code_of(answer) != code:
        return f"code told as {code_of(answer)}"
    if not answered and answer.status != (200 if in_stream else CODES.get(code, (429, ""))[0]):
        return f"status {answer.status}"
    if len(set(keys)) > 1 and took > 2:
        return f"somebody else was asked after {took} s only"
    final = answer.headers.get("x-should-retry") == "false"
    return Case(keys, answered, final, "retry-after" in answer.headers)


@pytest.mark.parametrize("in_stream", [False, True], ids=["status", "event"])
@pytest.mark.parametrize("scene", SCENES)
async def test_what_follows_each_code(tmp_path: Path, scene: str, in_stream: bool) -> None:
    parts = SCENES[scene]
    table = {code: expected(code, scene) for code in ALL}
    if in_stream:  # its head had been received, with a status that says nothing
        table = {code: case._replace(final=False, later=False) for code, case in table.items()}
    async with several(tmp_path, **parts, groups=GROUPS.values(), routes=apart(parts["names"])) as (
        proxy
    ):
        found = {code: await seen(proxy, code, in_stream=in_stream) for code in ALL}
    assert {code: case for code, case in found.items() if case != table[code]} == {}


@pytest.mark.parametrize("code", REPEATED)
async def test_a_failure_that_lasts_is_repeated_twice_and_told_with_its_code(
    tmp_path: Path, code: str
) -> None:
    async with several(tmp_path) as proxy:
        proxy.inject(fault(code), times=None)
        answer = await proxy.ask()
        assert proxy.keys == ["a1"] * 3
        assert (answer.status, code_of(answer)) == (CODES[code][0], code)
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("code", ["1113", "1308", "1000"])
async def test_when_every_key_is_refused_each_was_asked_once(tmp_path: Path, code: str) -> None:
    async with several(tmp_path, keys=3) as proxy:
        proxy.inject(fault(code), times=None)
        answer = await proxy.ask()
        assert proxy.keys == ["a1", "a2", "a3"]
        assert (answer.status, code_of(answer)) == (CODES[code][0], code)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-glm-proxy-attempts"] == "3"


@pytest.mark.parametrize("code", OWN_LIMIT)
async def test_who_is_refused_by_the_own_limit_all_the_time_is_told_at_the_deadline(
    tmp_path: Path, code: str
) -> None:
    async with several(tmp_path, admission={"wait": "1500ms"}) as proxy:
        proxy.inject(fault(code), times=None)
        began = time.monotonic()
        answer = await proxy.ask()
        took = time.monotonic() - began
        assert answer.status == 429
        assert answer.headers["x-should-retry"] == "false"
        assert 2 <= len(proxy.keys) <= 20
        assert took < 2.1


async def test_calls_that_come_too_often_are_not_repeated_at_once_with_the_same_key(
    tmp_path: Path,
) -> None:
    async with several(tmp_path, keys=2, admission={"wait": "700ms"}) as proxy:
        proxy.inject(fault("1303"), times=None)
        assert (await proxy.ask()).status == 429
        assert 2 <= len(proxy.keys) <= 5


@pytest.mark.parametrize("code", OVERLOAD)
async def test_an_overloaded_platform_is_asked_again_after_the_long_wait(
    tmp_path: Path, code: str
) -> None:
    async with several(tmp_path, attempts={"overload_wait": "300ms"}) as proxy:
        proxy.inject(fault(code))
        answer = await proxy.ask()
        assert answer.status == 200
        first, second = (entry.arrived for _, entry in proxy.entries)
        assert 0.3 <= second - first < 0.6


@pytest.mark.parametrize("code", OVERLOAD)
async def test_who_is_not_asked_again_tells_when_it_is_worth_it(tmp_path: Path, code: str) -> None:
    async with several(tmp_path) as proxy:
        proxy.inject(fault(code))
        answer = await proxy.ask()
        assert 30 <= int(answer.headers["retry-after"]) <= 45


# --- Retry-After -------------------------------------------------------------------------------


def in_http(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        (lambda: "1", 0.95, 1.4),
        (lambda: "0.4", 0.38, 0.8),
        (lambda: in_http(2), 0.9, 2.4),  # a date has whole seconds
        (lambda: in_http(-100), 0.04, 0.4),
        (lambda: "soon", 0.04, 0.4),
        (lambda: "-5", 0.04, 0.4),
        (lambda: "nan", 0.04, 0.4),
    ],
    ids=["whole", "fraction", "date", "past", "word", "negative", "nan"],
)
async def test_retry_after_is_kept_in_each_of_its_forms(
    tmp_path: Path, said: Any, least: float, most: float
) -> None:
    async with several(tmp_path) as proxy:
        proxy.inject(fault("1234", headers=(("retry-after", said()),)))
        assert (await proxy.ask()).status == 200
        first, second = (entry.arrived for _, entry in proxy.entries)
        assert least <= second - first < most


async def test_another_candidate_does_not_wait_for_the_first_ones_retry_after(
    tmp_path: Path,
) -> None:
    async with several(tmp_path, "ab") as proxy:
        proxy.inject(fault("1305", headers=(("retry-after", "30"),)), on="a")
        began = time.monotonic()
        assert (await proxy.ask()).status == 200
        assert time.monotonic() - began < 0.3
        assert proxy.asked == ["a", "b"]


async def test_the_upstreams_own_retry_after_reaches_the_caller(tmp_path: Path) -> None:
    async with several(tmp_path) as proxy:
        proxy.inject(fault("1305", headers=(("retry-after", "77"),)))
        answer = await proxy.ask()
        assert answer.headers["retry-after"] == "77"


# --- quota -------------------------------------------------------------------------------------


def quota_body(seconds: float) -> bytes:
    """A used-up window that is open again after so long, in the service's time."""
    at = datetime.now(UTC) + timedelta(hours=8, seconds=seconds)
    message = f"used up, resets at {at:%Y-%m-%d %H:%M:%S}"
    return orjson.dumps({"error": {"code": "1308", "message": message}})


def refused_until(seconds: float) -> Fault:
    body = quota_body(seconds)
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n"
    return Fault(wire=head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def test_a_key_rests_until_the_time_its_quota_returns(tmp_path: Path) -> None:
    async with several(tmp_path, keys=2) as proxy:
        proxy.inject(refused_until(2.5))
        for _ in range(3):
            began = time.monotonic()
            assert (await proxy.ask()).status == 200
            assert time.monotonic() - began < 0.3
        assert proxy.keys == ["a1", "a2", "a2", "a2"]
        resting = await proxy.figure("glm_proxy_admission_resting_keys", endpoint="a")
        assert resting == 1
        rested = time.monotonic() + 2.5
        while time.monotonic() < rested + 1 and proxy.keys[-1] != "a1":
            assert (await proxy.ask()).status == 200
        assert proxy.keys[-1] == "a1"
        assert time.monotonic() < rested + 0.3


async def test_a_quota_that_is_used_up_for_days_closes_nothing_else(tmp_path: Path) -> None:
    """The only key is asked all the same: who pays knows better than a message's date."""
    async with several(tmp_path) as proxy:
        proxy.inject(refused_until(5 * 86_400))
        assert code_of(await proxy.ask()) == "1308"
        assert (await proxy.ask()).status == 200


# --- bounds ------------------------------------------------------------------------------------


async def test_with_the_budget_used_up_failures_are_told_at_once(tmp_path: Path) -> None:
    attempts: dict[str, Any] = {"retries": 1, "retry_budget": "0.01%", "breaker": "off"}
    async with several(tmp_path, attempts=attempts) as proxy:
        proxy.inject(fault("1234"), times=None)
        made = [int((await proxy.ask()).headers["x-glm-proxy-attempts"]) for _ in range(20)]
        assert made[0] == 2
        assert made[-1] == 1
        # Ten at once, and one for each five seconds.
        assert 10 <= sum(made) - 20 <= 11
        denied = await proxy.figure("glm_proxy_retries_total", decision="denied_budget")
        assert denied == 20 - (sum(made) - 20)


async def test_no_retries_means_one_attempt(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", attempts={"retries": 0}) as proxy:
        proxy.inject(fault("1234"), on="a")
        answer = await proxy.ask()
        assert proxy.asked == ["a"]
        assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize(
    "broken",
    [
        Fault(cut_at_event=4, gap=0.03),
        Fault(code="1234", error_at_event=4, gap=0.03),
        Fault(finish_reason="network_error"),
        Fault(stall_at_event=4),
    ],
    ids=["cut", "error", "network_error", "stall"],
)
async def test_after_the_first_byte_nothing_is_asked_again(tmp_path: Path, broken: Fault) -> None:
    async with several(tmp_path, "ab", timeouts={"idle": "200ms"}) as proxy:
        proxy.inject(broken, on="a")
        answer = await proxy.ask()
        assert proxy.asked == ["a"]
        assert answer.status == 200
        assert answer.headers["x-glm-proxy-attempts"] == "1"
        if broken.finish_reason is None:
            assert not answer.clean
            assert b'"error"' in answer.chunks[-1]


@pytest.mark.parametrize("code", ["1302", "1305", "1113", "1234", "1210"])
async def test_codes_count_the_same_in_the_other_dialect(tmp_path: Path, code: str) -> None:
    case = expected(code, "two candidates")
    async with several(tmp_path, "ab") as proxy:
        proxy.inject(fault(code), on="a")
        body = chat(max_tokens=100)
        answer = await proxy.ask("anthropic-version: 2023-06-01", path=MESSAGES, body=body)
        assert proxy.keys == case.keys
        if case.answered:
            assert answer.body.rstrip().endswith(b'{"type": "message_stop"}')
        else:
            assert answer.json()["type"] == "error"
            assert answer.json()["error"]["code"] == code


async def test_of_callers_own_keys_a_refused_one_closes_nothing_to_others(tmp_path: Path) -> None:
    async with several(tmp_path, keys=0) as proxy:
        for _ in range(7):
            refused = await proxy.ask(body=chat(simulate={"code": "1113"}))
            assert refused.status == 429
        assert (await proxy.ask()).status == 200
