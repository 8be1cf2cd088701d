"""What the tests of this room share."""

from __future__ import annotations

import pytest

from tests.observe.scraped import Scraped


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()
