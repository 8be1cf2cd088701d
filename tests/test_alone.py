"""The list of tests that run alone names tests that are there."""

from __future__ import annotations

import pytest

from tests.alone import ALONE, TESTS


@pytest.mark.parametrize("pattern", ALONE)
def test_every_pattern_finds_a_file(pattern: str) -> None:
    assert list(TESTS.glob(pattern))
