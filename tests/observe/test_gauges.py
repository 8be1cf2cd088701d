"""Figures that are read at each scrape: admission and breakers; and where endpoints are."""

from __future__ import annotations

from tests.observe.scraped import Scraped

WHERE = {"endpoint": "cn", "served_model": "glm-4.6"}
OTHER = WHERE | {"served_model": "other"}
FIGURES = ("waiting", "in_flight", "limit", "resting_keys")

Row = tuple[str, str, dict[str, float | None]]


def a_row(
    model: str, waiting: int, in_flight: int, limit: int | None, resting_keys: int = 0
) -> Row:
    figures = (waiting, in_flight, limit, resting_keys)
    return "cn", model, dict(zip(FIGURES, figures, strict=True))


def admission(scraped: Scraped, where: dict[str, str]) -> list[float | None]:
    return [scraped.value(f"glm_proxy_admission_{figure}", **where) for figure in FIGURES]


def breaker(scraped: Scraped, where: dict[str, str]) -> dict[str, float | None]:
    return {
        state: scraped.value("glm_proxy_breaker_state", state=state, **where)
        for state in ("closed", "half_open", "open")
    }


def test_admission_is_asked_for_its_figures_at_each_scrape(scraped: Scraped) -> None:
    rows = [a_row("glm-4.6", 3, 2, 2, 1)]
    scraped.metrics.watch_admission(lambda: rows)
    assert admission(scraped, WHERE) == [3, 2, 2, 1]
    rows[:] = [a_row("glm-4.6", 0, 1, 2)]
    assert admission(scraped, WHERE) == [0, 1, 2, 0]
    rows.clear()
    assert admission(scraped, WHERE) == [None] * 4


def test_a_limit_that_is_not_known_is_not_shown(scraped: Scraped) -> None:
    scraped.metrics.watch_admission(lambda: [a_row("glm-4.6", 0, 7, None)])
    assert admission(scraped, WHERE) == [0, 7, None, 0]


def test_rows_of_one_model_and_all_unknown_models_are_added_up(scraped: Scraped) -> None:
    known = [a_row("glm-4.6", 1, 2, 3, 1), a_row("glm-4.6", 10, 20, 30)]
    strange = [a_row(f"model-{n}", 1, 1, None if n == 500 else 5) for n in range(1000)]
    scraped.metrics.watch_admission(lambda: known + strange)
    assert admission(scraped, WHERE) == [11, 22, 33, 1]
    assert admission(scraped, OTHER) == [1000, 1000, None, 0]
    assert scraped.text().count("\nglm_proxy_admission_waiting{") == 2


def test_a_breaker_is_in_one_state(scraped: Scraped) -> None:
    rows = [("cn", "glm-4.6", "closed")]
    scraped.metrics.watch_breakers(lambda: rows)
    assert breaker(scraped, WHERE) == {"closed": 1, "half_open": 0, "open": 0}
    rows[:] = [("cn", "glm-4.6", "half_open")]
    assert breaker(scraped, WHERE) == {"closed": 0, "half_open": 1, "open": 0}


def test_of_several_breakers_the_worst_is_shown(scraped: Scraped) -> None:
    states = ("closed", "open", "half_open", "closed")
    rows = [("cn", f"model-{at}", state) for at, state in enumerate(states)]
    rows += [("cn", "glm-4.6", state) for state in ("half_open", "closed")]
    scraped.metrics.watch_breakers(lambda: rows)
    assert breaker(scraped, OTHER) == {"closed": 0, "half_open": 0, "open": 1}
    assert breaker(scraped, WHERE) == {"closed": 0, "half_open": 1, "open": 0}


def test_a_place_that_nobody_watches_is_not_shown(scraped: Scraped) -> None:
    assert "glm_proxy_breaker_state{" not in scraped.text()
    assert "glm_proxy_admission_waiting{" not in scraped.text()


def test_every_endpoint_is_shown_with_its_region(scraped: Scraped) -> None:
    name = "glm_proxy_endpoint_info"
    assert scraped.value(name, endpoint="cn", region="beijing") == 1
    assert scraped.value(name, endpoint="global", region="none") == 1
    assert scraped.total(name) == 2
