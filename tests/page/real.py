"""A real proxy before two simulated endpoints, on a thread of its own, with traffic if wanted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from proxy.simulator import Fault, Simulator, SimulatorSettings
from tests.fakes.raw_client import chat
from tests.fakes.several import Several, several

TOKEN = "the-operator's-token"
WITHIN = 30.0
"""Seconds to start, to stop, and for one answer that a test asks for."""
MODELS = ("glm-4.6",) * 7 + ("glm-4.5",) * 2 + ("glm-4.7",)
FAULTS = (
    # Of each hundred answers about so many are like this.
    (3, Fault(status=500, code="500")),
    (2, Fault(code="1305")),
    (2, Fault(cut_at_event=12)),
    (3, Fault(delay=4.0)),
    (1, Fault(delay=9.0)),
)
_PROMPTS = (
    "Explain machine learning in one sentence.",
    "Say hello.",
    "What is HTTP/2, in one sentence?",
)
_ROUTES = [
    {
        "name": "fast-chat",
        "match": {"model": ["glm-4.6", "glm-4.5"]},
        "candidates": [
            {"model": "glm-4-flash", "endpoint": "cn"},
            {"model": "glm-4.5-air", "endpoint": "global"},
        ],
        "first_content_target": "5s",
        "params": {"force": {"thinking": "disabled"}},
        "hedge": {"after": "p95", "min": "800ms", "budget": "10%"},
    },
    {
        "name": "deep",
        "match": {"model": ["glm-4.7"]},
        "candidates": [{"endpoint": "global"}, {"endpoint": "cn"}],
    },
]
T = TypeVar("T")


class RealProxy:
    """`with RealProxy(folder) as proxy:` serves the page on `proxy.url`."""

    def __init__(self, folder: Path, profile: str = "instant") -> None:
        self._folder = folder
        self._simulated = SimulatorSettings(profile=profile, ca_file=None)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="real proxy")
        self._stack = AsyncExitStack()
        self._parts: Several | None = None
        self._traffic: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host, port = self._several.app.admin_address
        return f"http://{host}:{port}"

    @property
    def _several(self) -> Several:
        assert self._parts is not None
        return self._parts

    def __enter__(self) -> RealProxy:
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, model: str = "glm-4.6") -> int:
        """One stream, to its end: its status."""

        async def one() -> int:
            return (await self._several.ask(body=chat(model=model, stream=True))).status

        return self._run(one())

    def inject(self, fault: Fault, *, times: int | None = 1, on: str | None = None) -> None:
        """Plays a fault at one endpoint, or at each."""

        async def do() -> None:
            self._several.inject(fault, times=times, on=on)

        self._run(do())

    def begin_traffic(self, rate: float, seed: int = 1) -> None:
        """Streams from now on, `rate` a second on average, some of them with faults."""

        async def begin() -> None:
            self._traffic = asyncio.create_task(self._stream_of_requests(rate, seed))

        self._run(begin())

    # --- on the loop -------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN)

    def _end(self) -> None:
        try:
            self._run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WITHIN)
            self._loop.close()

    async def _start(self) -> None:
        token = self._folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        self._parts = await self._stack.enter_async_context(
            several(
                self._folder,
                ("cn", "global"),
                simulators=self._simulated,
                admin={"port": 0, "token": f"file:{token}"},
                routes=_ROUTES,
            )
        )

    async def _stop(self) -> None:
        if self._traffic is not None:
            self._traffic.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._traffic
        await self._stack.aclose()

    async def _stream_of_requests(self, rate: float, seed: int) -> None:
        dice = random.Random(seed)
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(dice.expovariate(rate))
                self._maybe_fault(dice)
                model, prompt = dice.choice(MODELS), dice.choice(_PROMPTS)
                patience = 1.5 if dice.random() < 0.02 else 60.0
                group.create_task(self._one(model, prompt, patience))

    def _maybe_fault(self, dice: random.Random) -> None:
        roll = dice.uniform(0, 100)
        for share, fault in FAULTS:
            roll -= share
            if roll < 0:
                simulator: Simulator = dice.choice([*self._several.endpoints.values()])
                simulator.inject(fault, times=1)
                return

    async def _one(self, model: str, prompt: str, patience: float) -> None:
        """A client that leaves when its patience is over."""
        messages = [{"role": "user", "content": prompt}]
        body = chat(model=model, stream=True, messages=messages)
        with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            await self._several.ask(body=body, within=patience)
