"""What happens at the proxy is seen on the page, in a real browser, without touching it."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.page.fake_admin import FakeAdmin
from tests.page.samples import (
    a_candidate,
    a_detail,
    a_history,
    a_live_status,
    a_running,
    a_status,
    a_summary,
    a_window,
    an_endpoint,
)
from tests.page.view import View


def test_the_figures_of_now_move(view: View, admin: FakeAdmin) -> None:
    view.until_text("#slo-share", "96%")
    assert view.text("#first-content-p50") == "820 ms"
    assert view.text("#first-content-p95") == "4.21 s"
    assert view.text("#in-flight") == "4"
    window = a_window(slo_share=0.9, first_content_p95_s=7.5, rate_per_s=31.4, errors=0)
    admin.say("status", a_live_status(in_flight=1234, window=window))
    view.until_text("#slo-share", "90%")
    assert view.find("#slo").get_attribute("class") == "figure-slo missed"
    assert view.text("#first-content-p95") == "7.50 s"
    assert view.text("#in-flight") == "1,234"
    assert view.text("#rate") == "31"


def test_a_share_just_below_the_objective_never_looks_met(view: View, admin: FakeAdmin) -> None:
    admin.say("status", a_live_status(window=a_window(slo_share=0.9499)))
    view.until_text("#slo-share", "94.9%")
    assert view.text("#slo-verdict") == "missed"


def test_before_the_first_exchange_nothing_is_claimed(browser: Chrome, admin: FakeAdmin) -> None:
    nothing = dict.fromkeys(name for name in a_window() if name.endswith(("_p50_s", "_p95_s")))
    window = a_window(**nothing, slo_share=None, slo_count=0, rate_per_s=0.0, errors=0)
    history = {name: [None] * 120 for name in a_history() if name not in ("step_s", "time")}
    history |= {name: a_history()[name] for name in ("step_s", "time")}
    admin.status = a_status(window=window, history=history, running=[], candidates=[])
    view = View(browser)
    view.open(admin.url)
    view.until_text("#slo-count", "No exchange in the last minute")
    assert view.text("#slo-share") == "–"
    assert view.find("#running-table p").is_displayed()
    assert view.find("#waterfall p").text == "No exchange yet."
    chart = view.find("#chart-first-content").get_attribute("aria-label") or ""
    assert "p50: no data yet" in chart


def test_charts_are_drawn_and_told_in_words(view: View) -> None:
    assert len(view.all("#charts canvas")) == 3
    told = view.find("#chart-first-content").get_attribute("aria-label")
    assert told is not None
    assert told.startswith("First content, 10 min. p50: now 1.10 s, highest 1.10 s; p95:")
    drawn = """
        const canvas = document.querySelector('#chart-first-content canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size"""
    assert view.run(drawn) > 5  # colours, of lines, grid and words


def test_an_exchange_appears_as_it_ends(view: View, admin: FakeAdmin) -> None:
    assert view.rows == []
    admin.say("exchange", a_summary("one"))
    view.until(lambda: view.rows == ["one"])
    admin.say("exchange", a_summary("two", outcome="upstream_failed", status=502))
    view.until(lambda: view.rows == ["two", "one"])
    row = view.find("tr[data-id='one']")
    assert "glm-4.6 → glm-4-flash" in row.text
    assert "1.08 s" in row.text
    bar = view.find("tr[data-id='one'] .bar")
    told = bar.get_attribute("aria-label") or ""
    assert told.startswith("connect 1.1 ms, upstream headers 520 ms, first byte 110 ms, reasoning")
    classes = view.run(
        "return [...arguments[0].querySelectorAll('.segment')].map((one) => one.className)", bar
    )
    assert "segment stage-upstream_headers" in classes
    assert "upstream_failed 502" in view.find("tr[data-id='two']").text


def test_bars_share_one_axis_with_the_target_on_it(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("soon", stages=[["stream", 1.0]], duration_s=1.0))
    admin.say("exchange", a_summary("late", stages=[["stream", 3.0]], duration_s=3.0))
    view.until(lambda: len(view.rows) == 2)
    widths = [
        view.find(f"tr[data-id='{name}'] .segment").rect["width"] for name in ("soon", "late")
    ]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.02)
    assert view.text("#waterfall .tick-target") == "5 s"


def test_a_late_exchange_is_marked_by_more_than_its_colour(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("late", first_content_s=7.25, duration_s=9.0))
    view.until(lambda: view.rows == ["late"])
    assert view.text("tr[data-id='late'] .cell-first_content") == "7.25 s !"


def test_what_was_before_is_shown_and_rows_are_bounded(browser: Chrome, admin: FakeAdmin) -> None:
    admin.exchanges["recent"] = [a_summary(f"old-{i}") for i in range(80)]
    view = View(browser)
    view.open(admin.url)
    view.until(lambda: len(view.rows) == 50)
    for i in range(70):
        admin.say("exchange", a_summary(f"new-{i}"))
    view.until(lambda: view.rows[:1] == ["new-69"])
    assert view.rows == [f"new-{i}" for i in reversed(range(20, 70))]


def test_what_is_not_sent_is_told(view: View, admin: FakeAdmin) -> None:
    admin.say("skipped", {"count": 17})
    view.until_text("#pending", "17 not shown")


def test_a_paused_list_stands_still(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("one"))
    view.until(lambda: view.rows == ["one"])
    view.find("#pause").click()
    admin.say("exchange", a_summary("two"))
    view.until_text("#pending", "1 waiting")
    assert view.rows == ["one"]
    view.find("#pause").click()
    view.until(lambda: view.rows == ["two", "one"])


def test_the_slowest_and_the_failed_are_shown_by_choice(view: View, admin: FakeAdmin) -> None:
    admin.exchanges["slowest"] = [a_summary("slow", duration_s=80.0)]
    admin.exchanges["failed"] = [a_summary("bad", outcome="upstream_timeout", status=504)]
    view.find("button[data-kind='slowest']").click()
    view.until(lambda: view.rows == ["slow"])
    assert view.find("button[data-kind='slowest']").get_attribute("aria-pressed") == "true"
    view.find("button[data-kind='failed']").click()
    view.until(lambda: view.rows == ["bad"])
    admin.exchanges["failed"].insert(0, a_summary("worse", outcome="internal_error", status=500))
    admin.say("exchange", admin.exchanges["failed"][0])
    view.until(lambda: view.rows == ["worse", "bad"])


def test_an_exchange_opens_with_its_attempts_on_one_axis(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("one", attempt_count=2))
    view.until(lambda: view.rows == ["one"])
    view.find("tr[data-id='one'] .cell-outcome").click()
    view.until(lambda: view.all("#detail[open] .bars"))
    stages, attempts = view.all("#detail .bars")
    assert len(stages.find_elements("css selector", "tbody tr")) == 9
    assert "1. first · cn / glm-4-flash" in attempts.text
    assert "2. hedge · global / glm-4-flash" in attempts.text
    lefts = view.run(
        "return [...arguments[0].querySelectorAll('.bar')]"
        ".map((bar) => parseFloat(bar.querySelector('.segment').style.left))",
        attempts,
    )
    assert lefts[0] == pytest.approx(0.02, abs=0.02)  # percent of three seconds
    assert lefts[1] == pytest.approx(13.3, abs=0.1)
    assert "hedge_started" in view.find("#detail .all-fields").text


def test_an_exchange_opens_and_closes_by_keys(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("one"))
    view.until(lambda: view.rows == ["one"])
    view.run("document.querySelector('tr[data-id=\"one\"] button').focus()")
    view.keys(Keys.ENTER)
    view.until(lambda: view.all("#detail[open] .bars"))
    view.keys(Keys.ESCAPE)
    view.until(lambda: not view.all("#detail[open]"))
    assert view.run("return document.activeElement.closest('tr')?.dataset.id") == "one"


def test_an_exchange_that_is_no_longer_kept_says_so(view: View, admin: FakeAdmin) -> None:
    admin.details["gone"] = {}
    admin.say("exchange", a_summary("gone"))
    view.until(lambda: view.rows == ["gone"])
    view.find("tr[data-id='gone'] button").click()
    view.until_text("#detail-body", "no longer kept")


def linked(view: View) -> str:
    return str(view.run("return location.hash"))


def test_a_link_opens_one_exchange(browser: Chrome, admin: FakeAdmin) -> None:
    """As the dots of a dashboard lead here."""
    view = View(browser)
    view.open(f"{admin.url}/#exchange=req%2F9")
    view.until(lambda: view.all("#detail[open] .bars"))
    assert "req/9" in view.text("#detail .all-fields")
    view.find("#detail-close").click()
    view.until(lambda: not view.all("#detail[open]"))
    assert linked(view) == ""
    assert browser.current_url == f"{admin.url}/"


def test_a_link_is_followed_on_an_open_page(view: View, admin: FakeAdmin) -> None:
    admin.details["gone"] = {}
    view.run("location.hash = '#exchange=one'")
    view.until_text("#detail .all-fields", "one")
    view.run("location.hash = '#exchange=two'")
    view.until_text("#detail .all-fields", "two")
    view.run("location.hash = '#exchange=gone'")
    view.until_text("#detail-body", "no longer kept")
    view.run("location.hash = '#exchange=%'")
    view.until_text("#detail .all-fields", "%")
    view.run("location.hash = '#settings'")
    view.until(lambda: not view.all("#detail[open]"))
    assert linked(view) == "#settings"
    view.run("location.hash = '#exchange=one'")
    view.until(lambda: view.all("#detail[open] .bars"))
    view.keys(Keys.ESCAPE)
    view.until(lambda: linked(view) == "")
    assert view.all("#detail[open]") == []


def test_the_link_of_an_open_exchange_is_in_the_address(view: View, admin: FakeAdmin) -> None:
    admin.say("exchange", a_summary("one"))
    view.until(lambda: view.rows == ["one"])
    steps = view.run("return history.length")
    view.find("tr[data-id='one'] button").click()
    view.until(lambda: view.all("#detail[open] .bars"))
    assert linked(view) == "#exchange=one"
    view.find("#detail-close").click()
    view.until(lambda: linked(view) == "")
    assert view.run("return history.length") == steps


def test_candidates_that_were_never_asked_stand_behind_a_count(
    view: View, admin: FakeAdmin
) -> None:
    nothing = {"error_rate": None, "predicted_first_content_s": None, "in_flight": 0}
    unasked = [a_candidate(route="default", model=f"glm-{i}", **nothing) for i in range(6)]
    candidates = [unasked[0], a_candidate(), *unasked[1:], a_candidate(model="open", **nothing)]
    candidates[-1]["breaker"] = "open"
    admin.say("status", a_live_status(candidates=candidates))
    view.until_text("#candidates-more", "6 more, never asked")
    names = "#candidates-table tbody th"
    assert view.texts(names) == ["glm-4-flash", "open"]
    more = view.find("#candidates-more")
    assert (more.is_displayed(), more.get_attribute("aria-expanded")) == (True, "false")
    more.click()
    assert view.texts(names) == ["glm-4-flash", "open", *(f"glm-{i}" for i in range(6))]
    assert more.get_attribute("aria-expanded") == "true"
    assert more.text == "Hide 6 never asked"
    view.find("#language").click()
    assert more.text == "收起 6 个从未问过的"
    more.click()
    assert more.text == "另有 6 个从未问过"
    view.find("#language").click()
    assert view.texts(names) == ["glm-4-flash", "open"]


def test_before_any_candidate_was_asked_all_are_shown(view: View, admin: FakeAdmin) -> None:
    nothing = {"error_rate": None, "predicted_first_content_s": None, "in_flight": 0}
    fresh = [a_candidate(model=f"glm-{i}", **nothing) for i in range(3)]
    admin.say("status", a_live_status(candidates=fresh))
    view.until(lambda: view.texts("#candidates-table tbody th") == ["glm-0", "glm-1", "glm-2"])
    assert not view.find("#candidates-more").is_displayed()


def test_an_exchange_without_attempts_has_no_bars_of_attempts(view: View, admin: FakeAdmin) -> None:
    admin.details["none"] = a_detail("none", attempts=[], endpoint=None, served_model=None)
    admin.say("exchange", a_summary("none", endpoint=None, served_model=None))
    view.until(lambda: view.rows == ["none"])
    view.find("tr[data-id='none'] button").click()
    view.until_text("#detail-body", "No attempt was made.")


def test_what_runs_and_who_could_answer_is_shown(view: View, admin: FakeAdmin) -> None:
    view.until_text("#candidates-table", "3 / 20")
    admin.say(
        "status",
        a_live_status(
            running=[a_running(request_id=f"run-{i}", age_s=6.5 - i) for i in range(3)],
            candidates=[
                a_candidate(breaker="half_open", error_rate=0.5, limit=None, waiting=7),
                a_candidate(model="glm-9", breaker="closed", predicted_first_content_s=8.0),
            ],
            endpoints=[an_endpoint(connections=13, ping_round_trip_s=None)],
        ),
    )
    view.until_text("#running-table", "run-2")
    assert [row[-5:] for row in view.texts("#running-table tbody tr")] == [
        "run-0",
        "run-1",
        "run-2",
    ]
    first, second = view.texts("#candidates-table tbody tr")
    assert "on trial" in first
    assert "50%" in first
    assert "3 / no limit" in first
    assert "8.00 s !" in second
    (endpoint,) = view.texts("#connections-table tbody tr")
    assert "13" in endpoint


def test_settings_are_shown_as_they_are(view: View, admin: FakeAdmin) -> None:
    view.until_text("#settings-text", "api_key: '***'")
    assert view.text("#settings-text") == admin.status["settings"]


def test_a_proxy_that_is_not_ready_says_why(view: View, admin: FakeAdmin) -> None:
    admin.say("status", a_live_status(ready=False, reasons=["starting or draining"]))
    view.until_text("#readiness", "Not ready: starting or draining")


def test_the_page_comes_back_when_the_proxy_does(view: View, admin: FakeAdmin) -> None:
    admin.close()
    view.until(lambda: view.state == "lost")
    assert view.find("#connection").text == "No connection: the figures below are old"
    assert view.find("#retry").is_displayed()
    assert "old" in (view.find("body").get_attribute("class") or "")
    admin.status = a_status(in_flight=77)
    admin.exchanges["recent"] = [a_summary("meanwhile")]
    admin.open()
    view.until(lambda: view.state == "live")
    view.until_text("#in-flight", "77")
    view.until(lambda: view.rows == ["meanwhile"])
    assert "old" not in (view.find("body").get_attribute("class") or "")


def test_a_new_try_can_be_asked_for(view: View, admin: FakeAdmin) -> None:
    admin.close()
    view.until(lambda: view.state == "lost")
    admin.open()
    if view.find("#retry").is_displayed():  # it may have come back by itself
        view.run("document.getElementById('retry').click()")
    view.until(lambda: view.state == "live")


def test_silence_is_told_from_a_connection_that_lives(view: View, admin: FakeAdmin) -> None:
    admin.silent = True
    view.until(lambda: view.state == "stale")
    admin.silent = False
    view.until(lambda: view.state == "live")


def test_a_hidden_page_asks_for_nothing(view: View, admin: FakeAdmin) -> None:
    view.until(lambda: admin.watchers == 1)
    page = view.browser.current_window_handle
    view.browser.switch_to.new_window("tab")
    view.until(lambda: admin.watchers == 0)
    view.browser.close()
    view.browser.switch_to.window(page)
    view.until(lambda: admin.watchers == 1)
    view.until(lambda: view.state == "live")
