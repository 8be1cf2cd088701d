"""Faults as text and as rules: what they mean and when they fire."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.simulator import Ending, Fault, FaultRule, parse_rule
from proxy.simulator.fault_queue import FaultQueue

CHAT = "/api/paas/v4/chat/completions"


def fired(rule: FaultRule, requests: int, model: str = "glm-4.6") -> list[int]:
    """Which of so many requests get the fault, from 1."""
    queue = FaultQueue((rule,))
    return [n for n in range(1, requests + 1) if queue.take(CHAT, model) is not None]


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        ("code=1302", [1, 2, 3, 4, 5, 6, 7]),
        ("code=1302,times=2", [1, 2]),
        ("code=1302,every=3", [3, 6]),
        ("code=1302,after=4", [5, 6, 7]),
        ("code=1302,after=1,every=2,times=2", [3, 5]),
        ("code=1302,model=glm-4.*", [1, 2, 3, 4, 5, 6, 7]),
        ("code=1302,model=glm-5*", []),
        ("code=1302,path=*/messages", []),
        ("code=1302,path=*/chat/completions,times=1", [1]),
    ],
)
def test_a_rule_fires_by_its_counts_and_patterns(spec: str, numbers: list[int]) -> None:
    assert fired(parse_rule(spec), 7) == numbers


def test_the_first_rule_that_fires_wins_and_then_the_next() -> None:
    queue = FaultQueue((FaultRule(Fault(code="1302"), 1), FaultRule(Fault(code="1305"), 1)))
    codes = [queue.take(CHAT, "") for _ in range(3)]
    assert codes == [Fault(code="1302"), Fault(code="1305"), None]
    assert queue.rules == []


def test_an_early_fault_waits_for_no_body() -> None:
    queue = FaultQueue((FaultRule(Fault(early=10, status=413), 1, path="*/files"),))
    assert queue.take("/files", "") is None
    assert queue.take_early("/chat") is None
    assert queue.take_early("/api/paas/v4/files") == Fault(early=10, status=413)


def test_text_becomes_fields(tmp_path: Path) -> None:
    stream = tmp_path / "s.sse"
    stream.write_bytes(b"data: x, y\n\n")
    rule = parse_rule(f"raw=@{stream}, gap=0.5, no_done, spelling=bom+crlf, ending=torn")
    assert rule.fault == Fault(
        raw=b"data: x, y\n\n", gap=0.5, no_done=True, spelling=("bom", "crlf"), ending=Ending.TORN
    )


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cut=3", "cut: Extra inputs"),
        ("cut_at_event=x", "cut_at_event: .*integer"),
        ("cut_at_event=1,cut_at_byte=1", "exclude each other"),
        ("every=often", "invalid literal"),
        ("ending=sad", "ending: "),
    ],
)
def test_a_wrong_rule_is_told_in_one_line(spec: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        parse_rule(spec)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "whole", "cut"),
    [
        (Fault(), Ending.CLEAN, Ending.CLEAN),
        (Fault(cut_at_event=3), Ending.CLEAN, Ending.RESET),
        (Fault(cut_at_byte=3, ending=Ending.TORN), Ending.CLEAN, Ending.TORN),
        (Fault(stall_at_event=3), Ending.CLEAN, Ending.HOLD),
        (Fault(ending=Ending.CLOSE), Ending.CLOSE, Ending.CLOSE),
    ],
)
def test_a_cut_that_is_never_reached_changes_nothing(
    fault: Fault, whole: Ending, cut: Ending
) -> None:
    assert fault.ending_after(cut=False) is whole
    assert fault.ending_after(cut=True) is cut


def test_a_misspelt_fault_is_refused() -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"stall": 3})
