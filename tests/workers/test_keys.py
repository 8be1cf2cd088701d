"""Workers that let in by virtual keys, while the place where those are kept comes and goes."""

from __future__ import annotations

import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES
from proxy.state.home import Entry
from proxy.state.open import make_home
from tests.fakes.fleet import Fleet, fleet
from tests.fakes.keys import bearer
from tests.fakes.raw_client import ask, chat
from tests.fakes.traffic import script
from tests.fakes.until import until
from tests.fakes.upstream import ScriptedUpstream
from tests.state.servers import running_redis

CHAT = "/v1/chat/completions"


async def answers(one: Fleet, line: str, count: int) -> Counter[int | None]:
    found: Counter[int | None] = Counter()
    for _ in range(count):
        found[(await ask(one.data, CHAT, chat("for-0"), line)).status] += 1
    return found


async def test_a_worker_killed_while_redis_is_away_costs_nobody_an_answer(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    pytest.importorskip("redis")
    program = needs_program("redis-server")
    (tmp_path / "key").write_text("0123456789abcdef.Upstream-Secret")
    async with ScriptedUpstream(script) as upstream, running_redis(program, tmp_path) as server:
        home = make_home(server.state)
        await home.open()
        made = access.make("team-a", secrets.token_bytes(RANDOM_BYTES), time.time())
        await home.save_key(made.key, Entry(time.time(), "cli:test", "key.create", "team-a"))
        await home.close()
        endpoint = {"name": "up", "base_url": upstream.url, "api_key": "file:key"}
        settings = {"access": "keys", "state": server.url, "endpoints": [endpoint]}
        async with fleet(tmp_path, settings) as one:
            assert set(await answers(one, bearer(made), 10)) == {200}
            await server.kill()
            victim = min(one.workers)
            one.send(signal.SIGKILL, victim)
            await until(lambda: "the keys are not known" in one.errors)
            assert set(await answers(one, bearer(made), 30)) == {200}
