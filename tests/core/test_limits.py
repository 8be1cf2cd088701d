"""The counts themselves: the table that every home answers alike, and what holds for any sequence."""

from __future__ import annotations

import pytest

from proxy.core.policy.limits import Meter
from tests.state.meter_cases import CASES, Case, Renew, Settle, Take

START = 60.0 * 1_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_meter_answers_as_the_table_says(case: Case) -> None:
    meter = Meter()
    for step in case.steps:
        now = START + step.at
        match step:
            case Take():
                assert meter.take(step.wants, step.lease, now, step.wall) == step.answer, step
            case Settle():
                meter.settle(step.wants, step.lease, step.tokens, now, step.wall)
            case Renew():
                meter.renew(step.leases, now)
