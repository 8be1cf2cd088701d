"""Languages, sizes, colours, screen readers, and what the browser is told to forbid."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from proxy.observe import labels
from tests.page.browser import browser_log
from tests.page.fake_admin import POLICY, FakeAdmin
from tests.page.samples import a_summary, a_switch, an_entry
from tests.page.test_files import FOLDER
from tests.page.view import View, set_media, set_size

STYLE = (FOLDER / "style.css").read_text()


def fill(view: View, admin: FakeAdmin) -> None:
    """Something stands in every section."""
    admin.say("exchange", a_summary("one"))
    admin.say("exchange", a_summary("two", outcome="upstream_failed", status=502, attempt_count=3))
    view.until(lambda: len(view.rows) == 2)
    view.until(lambda: view.all("#model option"))
    view.until_text("#settings-text", "endpoints")
    admin.entries = [an_entry(), an_entry(action="something.new")]
    admin.say("status", {"switches": [a_switch(), a_switch(model="own", until=None)]})
    view.until(lambda: view.all("#switches-table button") and view.all("#audit-table table"))


def switch(view: View, language: str) -> None:
    if not view.run("return document.documentElement.lang").startswith(language):
        view.run("document.getElementById('language').click()")
    assert view.run("return document.documentElement.lang").startswith(language)


def test_the_language_is_switched_and_remembered(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    assert view.run("return document.documentElement.lang") == "en"
    button = view.find("#language")
    assert (button.text, button.get_attribute("lang")) == ("中文", "zh-CN")
    button.click()
    assert view.run("return document.documentElement.lang") == "zh-CN"
    assert view.text("#now-title") == "当前"
    assert view.text("#slo-label") == "5 秒内出现首个内容"
    assert view.text("#connection") == "实时"
    assert view.text("#first-content-p95") == "4.21 秒"
    assert "上游响应头 520 毫秒" in (
        view.find("tr[data-id='one'] .bar").get_attribute("aria-label") or ""
    )
    assert "未熔断" in view.text("#candidates-table")
    assert view.text("#pane-proxied h3") == "经过代理"
    assert view.find("#ask").find_element("css selector", "label").text == "管理令牌"
    view.open(admin.url)
    assert view.run("return document.documentElement.lang") == "zh-CN"
    view.find("#language").click()
    assert view.text("#now-title") == "Now"


def test_no_english_is_left_on_the_chinese_page(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    switch(view, "zh")
    shown = view.run("return document.querySelector('main').innerText")
    labels = view.run(
        "return [...document.querySelectorAll('main [aria-label]')].map((e) => e.ariaLabel)"
    )
    known = r"glm[-\w.]*|fast-chat|cn(-north)?|sg|global|run-1|completed|upstream_failed|TTFB|TTFT"
    known += r"|p\d\d|token|endpoint|key|API|PING|ID|Ctrl|Enter|Explain machine.*|admin|endpoints:"
    known += r"|- name: cn|api_key.*|own|cli:root|for 2h|something.new"
    left = {
        word
        for text in [shown, *labels]
        for word in re.findall(r"[A-Za-z]{2,}", re.sub(known, " ", text))
    }
    assert left == set()


def test_the_first_language_is_the_browsers(browser: Chrome, admin: FakeAdmin) -> None:
    view = View(browser)
    agent = {"userAgent": browser.execute_script("return navigator.userAgent")}
    browser.execute_cdp_cmd(
        "Emulation.setUserAgentOverride", {**agent, "acceptLanguage": "zh-TW,zh"}
    )
    try:
        view.open(admin.url)
        assert view.run("return document.documentElement.lang") == "zh-CN"
    finally:
        browser.execute_cdp_cmd("Emulation.setUserAgentOverride", agent)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [360, 768, 1366])
def test_the_page_fits_its_width(view: View, admin: FakeAdmin, width: int, language: str) -> None:
    fill(view, admin)
    switch(view, language)
    set_size(view.browser, width, 740, phone=width < 700)
    wide, seen = view.run(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert wide <= seen
    view.run("document.querySelector('tr[data-id=one] button').click()")
    view.until(lambda: view.all("#detail[open] .bars"))
    dialog = view.run("const it = document.getElementById('detail'); return it.scrollWidth")
    assert dialog <= width
    box = view.find("#detail").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [360, 390, 768, 1000, 1280, 1366])
def test_every_outcome_can_be_read_to_its_end(view: View, admin: FakeAdmin, width: int) -> None:
    """They begin alike, and their ends say what to do. The badge of attempts is not pushed out."""
    known = sorted(labels.outcomes() - {"completed"})
    listed = [a_summary(one, outcome=one, status=504, attempt_count=3) for one in known]
    admin.exchanges["failed"] = listed
    set_size(view.browser, width, 900, phone=width < 700)
    view.run("document.querySelector('button[data-kind=failed]').click()")
    view.until(lambda: view.rows == known)
    for language in ("en", "zh"):
        switch(view, language)
        view.until(lambda: view.rows == known)
        assert view.texts("#waterfall .outcome bdi") == [f"{one} 504" for one in known]
        cut = view.run(
            "return [...document.querySelectorAll('#waterfall td.cell-outcome')].filter((cell) => {"
            "  const text = cell.querySelector('bdi'), badge = cell.querySelector('.badge');"
            "  return text.scrollWidth > text.clientWidth || text.scrollHeight > text.clientHeight"
            "    || badge.getBoundingClientRect().right > cell.getBoundingClientRect().right"
            "}).map((cell) => cell.textContent)"
        )
        assert cut == []
    if width >= 1280 or width < 700:  # in one line
        heights = {row.rect["height"] for row in view.all("#waterfall .outcome")}
        assert max(heights) < 24


def test_on_a_phone_the_figures_that_matter_come_first(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    set_size(view.browser, 360, 740, phone=True)
    share = view.find("#slo-share").rect
    assert share["y"] < 740
    assert view.find("tr[data-id='one'] .bar").rect["width"] > 180
    assert view.find("#candidates-table tbody td").is_displayed()


def test_dark_is_followed(view: View, admin: FakeAdmin) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    line = "return document.querySelector('#charts canvas').toDataURL()"
    view.until(lambda: view.all("#charts canvas"))
    assert view.run(back) == "rgb(244, 246, 248)"
    light = view.run(line)
    set_media(view.browser, prefers_color_scheme="dark")
    view.until(lambda: view.run(back) == "rgb(14, 19, 24)")
    view.until(lambda: view.run(line) != light)


def test_less_motion_is_followed(view: View) -> None:
    moves = "return getComputedStyle(document.querySelector('.live-data')).transitionDuration"
    assert view.run(moves) == "0.3s"
    set_media(view.browser, prefers_reduced_motion="reduce")
    view.until(lambda: view.run(moves) in ("0s", "1e-05s"))


def colours(*, dark: bool) -> dict[str, str]:
    light_part, dark_part = STYLE.split("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light_part))
    return found | (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark_part)) if dark else {})


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_on_what_it_stands_on(dark: bool) -> None:
    """4.5 to 1 for text, 3 to 1 for lines and bars of charts (WCAG 2.2 AA)."""
    found = colours(dark=dark)
    text = [(name, back) for name in ("text", "quiet") for back in ("panel", "back", "bad-back")]
    text += [
        (name, back) for name in ("good", "bad", "fair", "accent") for back in ("panel", "back")
    ]
    text += [("on-accent", "accent"), ("target", "panel")]
    lines = [(name, "panel") for name in ("line-1", "line-2", "line-good", "line-bad")]
    assert [pair for pair in text if contrast(found[pair[0]], found[pair[1]]) < 4.5] == []
    assert [pair for pair in lines if contrast(found[pair[0]], found[pair[1]]) < 3] == []


# --- for who does not see it -----------------------------------------------------------------


def tree(view: View) -> list[dict[str, Any]]:
    """The browser's accessibility tree, without what it ignores."""
    nodes = view.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [node for node in nodes if not node["ignored"]]


def name_of(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", "")).strip()


def with_role(nodes: list[dict[str, Any]], *roles: str) -> list[dict[str, Any]]:
    return [node for node in nodes if node["role"]["value"] in roles]


def test_every_control_and_picture_has_a_name(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    nodes = tree(view)
    controls = with_role(
        nodes, "button", "link", "textbox", "combobox", "spinbutton", "image", "img", "table"
    )
    assert len(controls) > 30
    assert [node for node in controls if not name_of(node)] == []
    assert {name_of(node) for node in with_role(nodes, "table")} == {
        "Finished exchanges, each with its stages on one axis of time",
        "Exchanges under way, the oldest first",
        "Health of every candidate",
        "The pool of every endpoint",
        "Models that are switched now",
        "Who changed what, the latest first",
    }
    landmarks = {node["role"]["value"] for node in nodes}
    assert {"banner", "main", "navigation", "contentinfo"} <= landmarks


@pytest.mark.parametrize("width", [1366, 360])
def test_tables_are_tables_at_every_width(view: View, admin: FakeAdmin, width: int) -> None:
    fill(view, admin)
    set_size(view.browser, width, 740, phone=width < 700)
    nodes = tree(view)
    assert len(with_role(nodes, "table")) == 6
    assert len(with_role(nodes, "row")) >= 2 + 1 + 2 + 2 + 2 + 2
    assert len(with_role(nodes, "rowheader")) == 1 + 2 + 2 + 2 + 2
    assert next(name_of(node) for node in with_role(nodes, "rowheader")) == "glm-4.6"


def test_headings_are_in_order(view: View) -> None:
    levels = view.run(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map((one) => +one.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_only_a_change_of_state_is_spoken(view: View, admin: FakeAdmin) -> None:
    """Not the figures of every second."""
    live = view.run(
        "return [...document.querySelectorAll('[aria-live], [role=status], [role=alert], output')]"
        ".map((one) => one.id || one.getAttribute('aria-live'))"
    )
    switching = {"switch-problem", "switch-said"}
    assert set(live) == {"connection", "verdict", "ask-problem", "off", *switching}
    view.run(
        "window.spoken = 0; new MutationObserver((all) => { window.spoken += all.length })"
        ".observe(document.getElementById('connection'),"
        " {childList: true, characterData: true, subtree: true})"
    )
    for in_flight in range(5, 8):
        admin.say("status", {"in_flight": in_flight})
        view.until_text("#in-flight", str(in_flight))
    assert view.run("return window.spoken") == 0


def test_the_first_key_leads_past_the_head(view: View) -> None:
    view.keys(Keys.TAB)
    assert view.focused == "Skip to content"
    view.keys(Keys.ENTER)
    view.until(lambda: view.focused == "main")


def test_every_place_the_keys_reach_is_seen_to_have_the_focus(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    seen = set()
    for _ in range(60):
        view.keys(Keys.TAB)
        name, outline = view.run(
            "const it = document.activeElement;"
            "return [it.id || it.textContent.trim(), getComputedStyle(it).outlineStyle]"
        )
        if view.run("return document.activeElement === document.body"):
            break
        seen.add(name)
        assert outline == "solid", name
    assert {"language", "pause", "Recent", "token", "send", "stop", "settings-text"} <= seen


# --- what the browser forbids ----------------------------------------------------------------


def test_the_policy_is_in_force(view: View) -> None:
    answer = view.run(
        "return fetch('/').then((answer) => answer.headers.get('content-security-policy'))"
    )
    assert answer == POLICY
    ran = view.browser.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (event) => done(event.blockedURI));"
        "const one = document.createElement('script'); one.textContent = 'window.hit = 1';"
        "document.body.append(one)"
    )
    assert ran == "inline"
    assert view.run("return window.hit") is None
    browser_log(view.browser)  # of this violation, which was meant


def test_nothing_is_asked_of_another_host(view: View, admin: FakeAdmin) -> None:
    fill(view, admin)
    asked = view.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith(f"{admin.url}/")] == []
