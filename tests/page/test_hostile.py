"""What callers and upstreams choose is text on the page, whatever it looks like."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from tests.page.fake_admin import TOKEN, FakeAdmin
from tests.page.samples import (
    a_candidate,
    a_detail,
    a_running,
    a_status,
    a_summary,
    a_switch,
    an_attempt,
    an_endpoint,
    an_entry,
)
from tests.page.view import View, set_size

HOSTILE = {
    "image": "<img src=x onerror=window.hit=1>",
    "script": '"><script>window.hit=1</script>',
    "attribute": "' onmouseover='window.hit=1' x='",
    "template": "${window.hit=1}{{constructor.constructor('window.hit=1')()}}",
    "turned": "glm-\u202e6.4-mlg\u2066",
    "unseen": "glm\u200b-4\u0000.6\u0007",
    "long": "m" * 5000,
    "lines": "one\ntwo\r\n\r\ndata: three",
    "proto": "__proto__",
}


def poisoned(text: str) -> FakeAdmin:
    """A listener that says `text` wherever somebody else may choose the words."""
    admin = FakeAdmin()
    summary = a_summary(
        "one",
        requested_model=text,
        served_model=text + "2",
        route=text,
        endpoint=text,
        outcome=text,
        error=text,
        stages=[[text, 1.0]],
    )
    admin.exchanges["recent"] = [summary]
    admin.details["one"] = a_detail(
        "one",
        **{name: text for name in ("requested_model", "route", "endpoint", "outcome", "error")},
        reason=text,
        timeline=[{"stage": text, "start_s": 0.0, "duration_s": 1.0}],
        attempts=[an_attempt(endpoint=text, model=text, outcome=text, role=text)],
    )
    admin.entries = [an_entry(actor=text, action=text, subject=text)]
    admin.status = a_status(
        version=text,
        ready=False,
        reasons=[text],
        settings=text,
        models=[text],
        switches=[a_switch(model=text, to=text, by=text)],
        running=[a_running(requested_model=text, route=text, endpoint=text, stage=text)],
        candidates=[a_candidate(route=text, model=text, endpoint=text, breaker=text)],
        endpoints=[an_endpoint(name=text, region=text, state=text)],
        routes=[{"name": text, "match": text, "example_model": text, "candidates": []}],
    )
    return admin


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_words_are_shown_as_text(browser: Chrome, text: str) -> None:
    """That the browser's log has no error and no violation is looked at after every test."""
    with poisoned(text) as admin:
        view = View(browser)
        view.open(admin.url)
        view.until(lambda: view.rows == ["one"])
        view.until(lambda: view.all("#model option"))
        view.until(lambda: view.all("#switches-table tr") and view.all("#audit-table tr"))
        view.find("tr[data-id='one'] button").click()
        view.until(lambda: view.all("#detail[open] .bars"))
        view.run("document.getElementById('detail').close()")
        view.find("#token").send_keys(TOKEN)
        view.find("#send").click()
        for asked in admin.asked_both_ways().values():
            headers = {"x-glm-proxy-model": text, "x-glm-proxy-attempts": text}
            asked.say("head", status=200, t_s=0.1, headers=headers)
            asked.say("delta", t_s=0.2, kind="content", text=text)
            asked.say("error", t_s=0.3, status=502, code=text, message=text)
            asked.end()
        view.until(lambda: len(view.all(".pane .problem")) == 2)
        assert view.text("#pane-direct .text") == text
        assert view.run("return window.hit") is None
        assert view.all("main img, main script, dialog img, dialog script") == []
        assert_fits(view)


def assert_fits(view: View) -> None:
    """Nothing is pushed off the page, on a phone neither."""
    for width, phone in ((1366, False), (1000, False), (360, True)):
        set_size(view.browser, width, 800, phone=phone)
        wide = view.run("return document.documentElement.scrollWidth")
        assert wide <= width


def test_what_turns_or_hides_text_is_spelled_out(browser: Chrome) -> None:
    with poisoned(HOSTILE["turned"]) as admin:
        view = View(browser)
        view.open(admin.url)
        view.until(lambda: view.rows == ["one"])
        assert view.text("tr[data-id='one'] bdi") == "glm-‹U+202E›6.4-mlg‹U+2066›"


def test_a_long_name_is_cut_where_it_is_one_of_many(browser: Chrome) -> None:
    with poisoned(HOSTILE["long"]) as admin:
        view = View(browser)
        view.open(admin.url)
        view.until(lambda: view.rows == ["one"])
        assert len(view.text("tr[data-id='one'] bdi")) == 201
        assert view.find("tr[data-id='one']").rect["height"] < 40
