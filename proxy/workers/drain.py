"""The end of a process: what runs may finish, until there is no more time or no more patience."""

from __future__ import annotations

import asyncio
import signal
from typing import Final, Protocol

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""What tells a process to end."""
KEPT: Final = (*ENDING, signal.SIGHUP, signal.SIGUSR2)
"""What is kept, once there are sockets, until somebody listens to it."""
_AT_ONCE: Final = 1.5
"""Seconds for the last words to clients and the log, once nobody wants to wait any longer."""


class Stoppable(Protocol):
    """What is ended here: `proxy.app.App`."""

    async def stop(self, timeout: float, *, replaced: bool = False) -> None:
        """Take no new exchange, let running ones finish for `timeout` seconds, close all."""

    def hurry(self) -> None:
        """What `stop` still lets finish has to end now."""


async def drain(
    app: Stoppable, timeout: float, hurry: asyncio.Event, *, replaced: bool = False
) -> None:
    """Stop `app`; when `hurry` is set meanwhile, within two seconds."""
    stopping = asyncio.ensure_future(app.stop(timeout, replaced=replaced))
    hurried = asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            app.hurry()
            await asyncio.wait({stopping}, timeout=_AT_ONCE)
        if stopping.done():
            stopping.result()
    finally:
        stopping.cancel()
        hurried.cancel()
