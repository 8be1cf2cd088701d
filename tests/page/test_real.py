"""The page before a real proxy with two simulated endpoints: what the two sides mean by a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import Select

from proxy.simulator import Fault
from tests.page.real import TOKEN, RealProxy
from tests.page.test_playground import answer, times
from tests.page.view import View


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[RealProxy]:
    with RealProxy(tmp_path) as proxy:
        yield proxy


@pytest.fixture
def view(browser: Chrome, proxy: RealProxy) -> View:
    view = View(browser)
    view.open(proxy.url)
    return view


def test_an_exchange_is_seen_as_it_ends_and_counted(view: View, proxy: RealProxy) -> None:
    assert view.rows == []
    assert proxy.ask() == 200
    view.until(lambda: len(view.rows) == 1)
    row = view.find("#waterfall tr[data-id]")
    assert "glm-4.6 → glm-4-flash" in row.text
    assert "fast-chat" in row.text
    assert "completed" in row.text
    assert len(view.all("#waterfall .segment")) >= 4
    view.until_text("#finished", "1 finished")
    view.until_text("#slo-share", "100%")
    view.until_text("#connections-table", "up")
    view.until_text("#candidates-table", "glm-4-flash")


def test_a_failover_is_seen_with_both_attempts(view: View, proxy: RealProxy) -> None:
    proxy.inject(Fault(status=500, code="500"), on="cn")
    assert proxy.ask() == 200
    view.until(lambda: len(view.rows) == 1)
    assert "×2" in view.text("#waterfall td.cell-outcome")
    view.find("#waterfall tr[data-id] button").click()
    view.until(lambda: len(view.all("#detail[open] .bars")) == 2)
    attempts = view.all("#detail .bars")[1].text
    assert "1. first · cn / glm-4-flash" in attempts
    assert "2. failover · global / glm-4.5-air" in attempts
    assert "answered · completed 200" in attempts


def test_a_failed_exchange_is_found_among_the_failed(view: View, proxy: RealProxy) -> None:
    proxy.inject(Fault(cut_at_event=3))
    proxy.ask()
    assert proxy.ask() == 200
    view.until(lambda: len(view.rows) == 2)
    view.find("button[data-kind='failed']").click()
    view.until(lambda: len(view.rows) == 1)
    assert "bad" in (view.find("#waterfall td.cell-outcome").get_attribute("class") or "")
    view.until_text("#errors", "1")


def test_the_playground_asks_both_ways(view: View, proxy: RealProxy) -> None:
    view.until(lambda: view.all("#model option"))
    view.find("#token").send_keys(TOKEN)
    Select(view.find("#model")).select_by_visible_text("fast-chat (glm-4.6)")
    Select(view.find("#endpoint")).select_by_visible_text("global")
    view.find("#send").click()
    for way in ("proxied", "direct"):
        view.until_text(f"#pane-{way} .pane-state", "Finished: stop")
        assert answer(view, way) != []
        assert times(view, way)["First content"] != "–"
        assert "out" in times(view, way)["Tokens"]
    assert times(view, "proxied")["Served by"] == "glm-4-flash @ cn"
    assert view.all("#pane-direct .reasoning") != []  # past the rule that forbids to think
    assert view.all("#pane-proxied .reasoning") == []
    view.until(lambda: len(view.rows) == 1)
    assert times(view, "direct")["Served by"] == "glm-4.6 @ global"
    assert "glm-4-flash answered instead of glm-4.6." in view.text("#verdict")
    assert "It thought first direct; through the proxy it did not think." in view.text("#verdict")
    (exchange,) = view.rows
    assert times(view, "proxied")["Request"] == exchange
    view.find("#pane-proxied a[href]").click()
    view.until(lambda: view.all("#detail[open] .bars"))
    assert exchange in view.text("#detail .all-fields")


def test_thinking_that_takes_every_token_is_told(view: View, proxy: RealProxy) -> None:
    view.until(lambda: view.all("#model option"))
    view.find("#token").send_keys(TOKEN)
    view.run("document.getElementById('max-tokens').value = 8")
    view.find("#send").click()
    view.until_text("#pane-direct .pane-state", "Finished: length")
    view.until_text("#pane-direct .notice", "No visible text: all 8 tokens went to thinking.")


def test_the_playground_tells_a_wrong_token_and_an_upstreams_error(
    view: View, proxy: RealProxy
) -> None:
    view.until(lambda: view.all("#model option"))
    view.find("#token").send_keys("not-it")
    view.find("#send").click()
    view.until_text("#ask-problem", "The token was refused.")
    view.find("#token").clear()
    view.find("#token").send_keys(TOKEN)
    proxy.inject(Fault(status=401, code="1001"), times=None)
    view.find("#send").click()
    view.until_text("#pane-direct .problem", "1001")
    view.until_text("#pane-proxied .problem", "1001")
    view.until_text("#pane-proxied .notice", "no key of its own")


def test_a_model_that_is_switched_is_served_by_the_other_and_back(
    view: View, proxy: RealProxy
) -> None:
    view.until(lambda: view.find("#switch").is_displayed())
    for field, text in (
        ("switch-token", TOKEN),
        ("switch-model", "glm-4.7"),
        ("switch-to", "glm-4.5-air"),
    ):
        view.find(f"#{field}").send_keys(text)
    Select(view.find("#switch-for")).select_by_visible_text("2 hours")
    view.find("#switch button[type=submit]").click()
    view.until_text("#switch-said", "glm-4.7 is served by glm-4.5-air from now on.")
    assert proxy.ask("glm-4.7") == 200
    view.until_text("#waterfall", "glm-4.7 → glm-4.5-air")
    view.until_text("#audit-table", "glm-4.7 -> glm-4.5-air for 2h")
    view.find("#switches-table button").click()
    view.until_text("#switch-said", "Undone: 1")
    assert proxy.ask("glm-4.7") == 200
    view.until(lambda: len(view.rows) == 2)
    assert "→" not in view.find("#waterfall tr[data-id]").text


def test_a_link_to_an_exchange_opens_it(view: View, proxy: RealProxy) -> None:
    proxy.ask()
    view.until(lambda: len(view.rows) == 1)
    (exchange,) = view.rows
    view.browser.get("about:blank")
    view.open(f"{proxy.url}/#exchange={exchange}")
    view.until(lambda: view.all("#detail[open] .bars"))
    assert exchange in view.text("#detail .all-fields")
    view.browser.get("about:blank")
    view.open(f"{proxy.url}/#exchange=nothing")
    view.until_text("#detail-body", "no longer kept")


def test_no_secret_is_on_the_page(view: View, proxy: RealProxy) -> None:
    view.until_text("#settings-text", "fast-chat")
    page = view.run("return document.documentElement.outerHTML")
    assert TOKEN not in page
    assert "a1.secret" not in page
    assert "cn1.secret" not in page


def test_a_proxy_that_stops_is_noticed(browser: Chrome, tmp_path: Path) -> None:
    view = View(browser)
    with RealProxy(tmp_path) as proxy:
        view.open(proxy.url)
    view.until(lambda: view.state == "lost")
