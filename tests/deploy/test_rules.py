"""Prometheus accepts the rules, their tests hold, and each alert is tested and explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from proxy.observe import objective
from proxy.observe.legend import label_of, legend
from proxy.observe.table import entries
from tests.deploy.reading import (
    ALERTS,
    EXPRESSIONS,
    FOLDER,
    GROUPS,
    RECORDS,
    RULES,
    TESTS,
    cases,
    grouped,
    runbook,
    selectors,
    valued,
)
from tests.fakes.records import a_record
from tests.observe.scraped import Scraped
from tests.selectors import Matcher

NeedsProgram = Callable[[str], str]
# What Prometheus itself adds to every series.
ADDED = {"instance", "job"}
_HISTOGRAM_PART = re.compile(r"_(?:bucket|sum|count)$")
# Not the `(... > 0)` that leaves a series out.
_THRESHOLD = re.compile(r"(?:>=|==|<|>) \(?(\d+(?:\.\d+)?)(?![\d.]*\))")
EASIER, HARDER = 0.6, 1.3


# --- what promtool says ------------------------------------------------------------------------


def promtool(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )


def test_prometheus_accepts_the_rules(needs_program: NeedsProgram) -> None:
    program = needs_program("promtool")
    found = promtool(program, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert found.returncode == 0, found.stdout + found.stderr


def test_prometheus_accepts_the_configuration(needs_program: NeedsProgram) -> None:
    found = promtool(needs_program("promtool"), "check", "config", FOLDER / "prometheus.yml")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 rule files found" in found.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_hold_their_tests(path: Path, needs_program: NeedsProgram) -> None:
    found = promtool(needs_program("promtool"), "test", "rules", path)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_changed_threshold_turns_a_test_red(tmp_path: Path, needs_program: NeedsProgram) -> None:
    program = needs_program("promtool")
    folder = _copy(tmp_path)
    assert promtool(program, "test", "rules", folder / "tests/streams.yml").returncode == 0
    _replace(folder, "GlmProxyStreamsCut", "ratio_rate15m > 0.05", "ratio_rate15m > 0.065")
    found = promtool(program, "test", "rules", folder / "tests/streams.yml")
    assert found.returncode == 1
    assert "GlmProxyStreamsCut" in found.stdout + found.stderr


@pytest.mark.long
@pytest.mark.parametrize("alert", ALERTS)
def test_every_threshold_is_held_from_both_sides(
    alert: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """A least number of exchanges is held from below only: more of them change nothing."""
    program = needs_program("promtool")
    files = {case.path.name for case in cases() if case.alert == alert and case.fired}
    for number, (before, after) in enumerate(_changes(ALERTS[alert]["expr"])):
        folder = _copy(tmp_path / str(number))
        _replace(folder, alert, before, after)
        found = promtool(program, "test", "rules", *(folder / "tests" / name for name in files))
        assert found.returncode == 1, f"{before!r} became {after!r}"
        assert "got:" in found.stdout + found.stderr  # another answer, not a mistake in the file


def _changes(expr: str) -> Iterator[tuple[str, str]]:
    """The whole expression, and the same with one threshold moved."""
    for found in _THRESHOLD.finditer(expr):
        value = float(found[1])
        for moved in _moved(found[0], value):
            yield expr, f"{expr[: found.start(1)]}{moved:g}{expr[found.end(1) :]}"


def _moved(condition: str, value: float) -> Iterator[float]:
    if value == 0:
        yield 4.0
    elif not condition.startswith(">="):
        yield EASIER * value
        yield HARDER * value
    elif value > 1:
        yield EASIER * value


def _copy(to: Path) -> Path:
    for name in ("rules", "tests"):
        shutil.copytree(FOLDER / name, to / name)
    return to


def _replace(folder: Path, alert: str, before: str, after: str) -> None:
    """Changes one alert's expression; each line of it is found wherever it is indented."""
    path = folder / "rules" / "alerts.yml"
    head, name, rest = path.read_text("utf-8").partition(f"- alert: {alert}\n")
    lines = before.strip().splitlines()
    pattern = r"\n\s*".join(map(re.escape, (line.strip() for line in lines)))
    changed, count = re.subn(pattern, lambda _: " ".join(after.split()), rest, count=1)
    assert name
    assert count == 1
    path.write_text(head + name + changed, "utf-8")


# --- every rule is tested and explained --------------------------------------------------------


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    looks = cases()
    assert {case.alert for case in looks if case.fired} == ALERTS.keys()
    assert {case.alert for case in looks if not case.fired} == ALERTS.keys()


def test_every_recording_rule_has_a_test_with_a_value() -> None:
    assert valued() >= RECORDS.keys()


def test_alerts_are_tested_after_what_they_are_made_of() -> None:
    """Groups that are not named run first, in promtool; all others in the order given."""
    for path in {case.path for case in cases()}:
        order = yaml.safe_load(path.read_text("utf-8"))["group_eval_order"]
        assert sorted(order) == sorted(GROUPS), path.name
        assert [name.endswith("-alerts") for name in order] == sorted(
            name.endswith("-alerts") for name in order
        ), path.name


def test_no_alert_fires_where_there_is_nothing_and_where_all_is_well() -> None:
    quiet = [case.alert for case in cases() if case.path.stem == "quiet"]
    assert sorted(quiet) == sorted([*ALERTS, *ALERTS])


def test_every_alert_has_a_section_in_the_runbook_that_says_how_urgent_it_is() -> None:
    sections = runbook()
    assert sections.keys() == ALERTS.keys()
    for name, alert in ALERTS.items():
        assert sections[name].lstrip().startswith(f"`{alert['labels']['severity']}`."), name
        for part in ("**Who notices**", "**Look**", "**Do**", "**Ignore**"):
            assert sections[name].count(part) == 1, f"{name}: {part}"


def test_every_alert_says_what_is_wrong_and_where_its_section_is() -> None:
    for name, alert in ALERTS.items():
        told = alert["annotations"]
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert told["runbook"] == f"deploy/prometheus/RUNBOOK.md#{name.lower()}"
        assert told["summary"], name
        assert "{{ $labels.job }}" in told["description"] or "$labels.instance" in str(told), name


def test_an_alert_names_labels_that_it_has() -> None:
    for case in cases():
        named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[case.alert]["annotations"])))
        for labels in case.fired:
            assert named <= labels.keys(), case.alert


def test_links_within_the_pages_lead_somewhere() -> None:
    anchors = {name.lower() for name in runbook()}
    for page in ("README.md", "RUNBOOK.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", (FOLDER / page).read_text("utf-8")):
            if target.startswith("#"):
                assert target[1:] in anchors, target
            elif "://" not in target:
                assert (FOLDER / target).exists(), target


# --- what the rules ask is there ---------------------------------------------------------------


def known() -> dict[str, set[str]]:
    """The labels of everything that rules and runbook can ask for, by the name of the series."""
    series: dict[str, set[str]] = {"up": set(ADDED)}
    for entry in entries():
        labels = {*entry.labels, *ADDED}
        if entry.kind == "histogram":
            series[f"{entry.name}_bucket"] = {*labels, "le"}
            series[f"{entry.name}_sum"] = series[f"{entry.name}_count"] = labels
        else:
            series[entry.name] = labels
    for name in RECORDS:
        series[name] = _level(name)
    return series


def _level(record: str) -> set[str]:
    """The labels that a recording rule's name says it has."""
    return set(record.partition(":")[0].split("_"))


def asked() -> Iterator[tuple[str, str]]:
    """Every query, and where it stands: rules, and those the runbook tells to look at."""
    yield from EXPRESSIONS.items()
    for name, text in runbook().items():
        for block in re.findall(r"```promql\n(.*?)```", text, re.S):
            for line in block.split("\n"):
                if line.strip():
                    yield f"runbook: {name}", line.strip()


def test_every_metric_exists_with_the_labels_it_is_chosen_and_added_up_by() -> None:
    series = known()
    for place, expr in asked():
        found = selectors(expr)
        assert found, place
        for one in found:
            assert one.metric in series, f"{place}: {one.metric}"
            chosen = {matcher.label for matcher in one.matchers}
            assert chosen <= series[one.metric], f"{place}: {one.metric}"
        there = set.union(*(series[one.metric] for one in found))
        assert grouped(expr) <= there, place


def test_a_recording_rule_has_the_labels_that_its_name_says() -> None:
    for name, expr in RECORDS.items():
        kept = grouped(expr)
        if not kept:  # made of others, and nothing is added up
            kept = set.union(*(_level(one.metric) for one in selectors(expr)))
        assert _level(name) == kept - ({"le"} - _level(name)), name


def test_every_value_that_is_asked_for_can_be_there() -> None:
    labels = legend()
    for place, expr in asked():
        for one in selectors(expr):
            for matcher in one.matchers:
                if matcher.label in ("le", "job") or ":" in one.metric:
                    continue
                label = label_of(labels, _HISTOGRAM_PART.sub("", one.metric), matcher.label)
                assert label is not None, f"{place}: {matcher}"
                assert _possible(matcher, label.values), f"{place}: {matcher}"


def _possible(matcher: Matcher, values: tuple[str, ...]) -> bool:
    """Every alternative of a regular expression is somebody's value."""
    regular = matcher.operator.endswith("~")
    wanted = matcher.value.split("|") if regular else [re.escape(matcher.value)]
    return all(any(re.fullmatch(one, value) for value in values) for one in wanted)


def test_buckets_that_are_asked_for_are_buckets_of_the_metric() -> None:
    scraped = Scraped()
    scraped.metrics.started()
    scraped.metrics.finish(a_record())
    text = scraped.text()
    bounds = {
        (one.metric, matcher.value)
        for _, expr in asked()
        for one in selectors(expr)
        for matcher in one.matchers
        if matcher.label == "le"
    }
    assert ("glm_proxy_first_content_seconds_bucket", str(objective.TARGET)) in bounds
    for metric, bound in bounds:
        assert re.search(rf'^{metric}\{{.*le="{re.escape(bound)}"', text, re.M), (metric, bound)


def test_the_rules_state_the_objective_that_the_proxy_judges_by() -> None:
    target, budget = f'le="{objective.TARGET}"', f"{1 - objective.SHARE:g}"
    misses = [expr for name, expr in RECORDS.items() if ":glm_proxy_slo_misses:" in name]
    burns = [expr for name, expr in RECORDS.items() if ":glm_proxy_slo_burn:" in name]
    asked = [one["expr"] for name, one in ALERTS.items() if "FirstContent" in name]
    assert (len(misses), len(burns), len(asked)) == (5, 10, 4)
    assert all(target in expr for expr in misses)
    assert all(expr.endswith(f" / {budget}") for expr in burns)
    assert all(f" * {budget})" in expr for expr in asked)
