"""A condition's grounds: what must return data for it to be decidable."""

from __future__ import annotations

import pytest

from tests.proof.promql import grounds, metrics


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("up", ["up"]),
        ("up == 0", ["up"]),
        ("(rate(a[5m]) > 14.4)", ["rate(a[5m])"]),
        ("a > 1 and b < 2 or c", ["a", "b", "c"]),
        ("a unless on (job) b", ["a", "b"]),
        ("a > on (job) group_left (x) b", ["a", "b"]),
        ("a > bool 0.5", ["a"]),
        ("((a > 1) and (b >= -1e3))", ["a", "b"]),
        ("absent(up{job=\"x\"})", ['up{job="x"}']),
        ("sum by (le) (a{y=~\"b>c\"}) / b > 0.05", ['sum by (le) (a{y=~"b>c"}) / b']),
        ("sum(a > 0) > 1", ["sum(a > 0)"]),
        ("a{x=\"and ) or\"} > 1 # a remark\nand b", ['a{x="and ) or"}', "b"]),
        ("band > 1", ["band"]),
    ],
)  # fmt: skip
def test_a_condition_is_taken_apart_at_its_comparisons(text: str, found: list[str]) -> None:
    assert grounds(text) == found


def test_a_bracket_that_is_not_closed_is_an_error() -> None:
    with pytest.raises(ValueError, match="not closed"):
        grounds("sum(a > 1")


def test_metrics_are_the_names_before_braces_and_ranges() -> None:
    text = 'sum by (route) (rate(a_total{b="c{d"}[5m])) / on (route) x:y:rate5m{z="1"}'
    assert metrics(text) == {"a_total", "x:y:rate5m"}
