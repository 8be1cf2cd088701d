"""Dialling must work on asyncio's own event loop as well as on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory] | None:
    """Both loops for `test_dial*.py`; elsewhere what `tests/conftest.py` says."""
    if not item.path.name.startswith("test_dial"):
        return None
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
