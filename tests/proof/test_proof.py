"""The proof itself: a real Prometheus, two proxies, every query of every dashboard and rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proof import report
from tests.proof.run import Found, Options, prove


async def _found(tmp_path: Path, options: Options) -> Found:
    found = await prove(options, tmp_path, lambda said: None)
    (tmp_path / "report.md").write_text(report.markdown(found))
    return found


@pytest.mark.timeout(180)  # half a minute alone; other tests may share the machine
async def test_every_query_of_every_dashboard_and_rule_is_answered(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    """Small: percentiles of so few exchanges say nothing, so counts alone are compared."""
    options = Options(
        exchanges=300,
        rate=30,
        prometheus=needs_program("prometheus"),
        rules_every=1,
        scrape_every=1,
        rate_interval=10,
        longest=1.0,
        restart=False,
    )
    found = await _found(tmp_path, options)
    assert not found.unhealthy
    assert not found.answers.unanswered, report.summary(found)
    counts = [row for row in found.rows if row.bucketed is None]
    assert not [row for row in counts if row.failed], report.summary(found)
    assert found.exemplars > 0


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_dashboards_and_load_client_agree(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    options = Options(exchanges=2000, rate=12, prometheus=needs_program("prometheus"))
    found = await _found(tmp_path, options)
    assert not found.failed, report.summary(found)
