"""What is over is looked for more often than in production."""

from __future__ import annotations

import pytest

from proxy.store import kept


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_BEAT", 0.2)
