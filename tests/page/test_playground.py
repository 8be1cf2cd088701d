"""The playground: what is sent, tokens one by one as they come, and what is told when it fails."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.page.fake_admin import TOKEN, Asked, FakeAdmin
from tests.page.samples import a_status
from tests.page.view import View

HEADERS = {
    "x-request-id": "req-7",
    "x-glm-proxy-model": "glm-4-flash",
    "x-glm-proxy-endpoint": "cn",
    "x-glm-proxy-attempts": "2",
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 41}


def ready(view: View) -> None:
    """Token and prompt are filled in, and there is something to choose from."""
    view.until(lambda: view.all("#model option"))
    view.find("#token").send_keys(TOKEN)
    view.run("document.getElementById('prompt').value = 'Say hello.'")


def send(view: View, admin: FakeAdmin) -> dict[str, Asked]:
    ready(view)
    view.find("#send").click()
    return admin.asked_both_ways()


def answer(view: View, way: str) -> list[str]:
    return view.texts(f"#pane-{way} .answer .text")


def is_shown(view: View, texts: list[str]) -> bool:
    return answer(view, "proxied") == texts


def times(view: View, way: str) -> dict[str, str]:
    heads, values = (view.texts(f"#pane-{way} .times {tag}") for tag in ("dt", "dd"))
    return dict(zip(heads, values, strict=True))


def test_tokens_appear_one_by_one_as_they_come(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    proxied = both["proxied"]
    view.until_text("#pane-proxied .pane-state", "Waiting for the first event")
    proxied.say("head", status=200, t_s=0.31, headers=HEADERS)
    view.until(lambda: times(view, "proxied")["Headers"] == "310 ms")
    assert answer(view, "proxied") == []
    for at, kind, text, shown in [
        (0.4, "reasoning", "Let", ["Let"]),
        (0.5, "reasoning", " me", ["Let me"]),
        (0.6, "content", "Hel", ["Let me", "Hel"]),
        (0.7, "content", "lo, ", ["Let me", "Hello, "]),
        (0.8, "content", "你好", ["Let me", "Hello, 你好"]),
    ]:
        proxied.say("delta", t_s=at, kind=kind, text=text)
        view.until(partial(is_shown, view, shown))
    assert answer(view, "direct") == []
    proxied.say("done", t_s=1.4, finish_reason="stop", usage=USAGE, ttft_s=0.4, first_content_s=0.6)
    proxied.end()
    view.until_text("#pane-proxied .pane-state", "Finished: stop")
    assert times(view, "proxied") == {
        "Headers": "310 ms",
        "First token": "400 ms",
        "First content": "600 ms",
        "Done": "1.40 s",
        "Tokens per second": "41",
        "Tokens": "9 in, 41 out",
        "Served by": "glm-4-flash @ cn",
        "Attempts": "2",
        "Request": "req-7",
    }
    both["direct"].end()
    view.until_text("#pane-direct .pane-state", "The stream ended before the answer did.")


def test_both_ways_are_compared_when_they_are_over(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    for way, first in (("proxied", 0.5), ("direct", 2.0)):
        both[way].say("head", status=200, t_s=first / 2, headers={})
        both[way].say("delta", t_s=first, kind="content", text="Hi")
        done = {"finish_reason": "stop", "usage": None, "ttft_s": first, "first_content_s": first}
        both[way].say("done", t_s=first + 1, **done)
        both[way].end()
    view.until_text("#verdict", "4 times sooner through the proxy (500 ms against 2.00 s)")
    bars = view.all("#race .bar")
    assert [len(bar.find_elements(By.CSS_SELECTOR, ".segment")) for bar in bars] == [3, 3]
    assert view.text("#race .tick-target") == "5 s"


def play(asked: Asked, *, first: float, headers: dict[str, str], thinks: bool = False) -> None:
    """A whole answer whose first content comes after `first` seconds."""
    asked.say("head", status=200, t_s=first / 2, headers=headers)
    if thinks:
        asked.say("delta", t_s=first / 2, kind="reasoning", text="Hm")
    asked.say("delta", t_s=first, kind="content", text="Hi")
    asked.say("done", t_s=first + 1, finish_reason="stop", usage=USAGE, first_content_s=first)
    asked.end()


def think_only(asked: Asked, *, reason: str, usage: dict[str, int] | None) -> None:
    """All the tokens went to thinking."""
    asked.say("head", status=200, t_s=0.3, headers={})
    asked.say("delta", t_s=0.4, kind="reasoning", text="Let me think.")
    asked.say("done", t_s=3.0, finish_reason=reason, usage=usage, ttft_s=0.4, first_content_s=None)
    asked.end()


def in_chinese(view: View) -> None:
    view.run("document.getElementById('language').click()")
    assert view.run("return document.documentElement.lang") == "zh-CN"


def in_english(view: View) -> None:
    view.run("document.getElementById('language').click()")
    assert view.run("return document.documentElement.lang") == "en"


def test_another_model_and_other_thinking_are_told_with_the_times(
    view: View, admin: FakeAdmin
) -> None:
    both = send(view, admin)
    play(both["proxied"], first=0.5, headers=HEADERS)
    play(both["direct"], first=2.0, headers={}, thinks=True)
    view.until_text("#verdict", "times sooner")
    assert view.text("#verdict") == (
        "First content 4 times sooner through the proxy (500 ms against 2.00 s). "
        "glm-4-flash answered instead of glm-4.6. "
        "It thought first direct; through the proxy it did not think."
    )
    assert times(view, "direct")["Served by"] == "glm-4.6 @ cn"
    in_chinese(view)
    assert view.text("#verdict") == (
        "经过代理，首个内容出现得快 4 倍（500 毫秒，直连 2.00 秒）。"
        "回答的是 glm-4-flash，而不是 glm-4.6。直连先思考了，经过代理没有。"
    )
    in_english(view)


def test_equals_are_compared_without_more_words(view: View, admin: FakeAdmin) -> None:
    ready(view)
    Select(view.find("#direct-model")).select_by_value("glm-4-flash")
    view.find("#send").click()
    both = admin.asked_both_ways()
    play(both["proxied"], first=1.0, headers=HEADERS, thinks=True)
    play(both["direct"], first=1.0, headers={}, thinks=True)
    view.until_text("#verdict", "First content at the same time")
    assert view.text("#verdict") == "First content at the same time (1.00 s against 1.00 s)."
    assert times(view, "direct")["Served by"] == "glm-4-flash @ cn"


def test_a_direct_model_of_its_own_is_told_apart(view: View, admin: FakeAdmin) -> None:
    ready(view)
    Select(view.find("#direct-model")).select_by_value("glm-4.7")
    view.find("#send").click()
    both = admin.asked_both_ways()
    play(both["proxied"], first=1.0, headers=HEADERS, thinks=True)
    play(both["direct"], first=0.5, headers={})
    view.until_text("#verdict", "2 times later")
    told = "Two models answered: glm-4-flash through the proxy, glm-4.7 direct."
    assert told in view.text("#verdict")
    assert "It thought first through the proxy; direct it did not think." in view.text("#verdict")
    in_chinese(view)
    told = "回答的模型不同：经过代理是 glm-4-flash，直连是 glm-4.7。经过代理先思考了，直连没有。"
    assert told in view.text("#verdict")
    in_english(view)


def test_an_answer_without_visible_text_says_where_the_tokens_went(
    view: View, admin: FakeAdmin
) -> None:
    both = send(view, admin)
    play(both["proxied"], first=0.5, headers=HEADERS)
    think_only(both["direct"], reason="length", usage={"completion_tokens": 1256})
    view.until_text("#pane-direct .pane-state", "Finished: length")
    assert view.text("#pane-direct .notice") == (
        "No visible text: all 1,256 tokens went to thinking. "
        "Allow more tokens, or turn thinking off."
    )
    assert not view.find("#pane-proxied .notice").is_displayed()
    bars = view.all("#race .bar")
    assert bars[1].find_elements(By.CSS_SELECTOR, ".segment")[-1].get_attribute("class") == (
        "segment stage-reasoning"
    )
    view.until_text("#verdict", "after 500 ms through the proxy; direct there was none.")
    in_chinese(view)
    assert view.text("#pane-direct .notice") == (
        "没有可见的文字：1,256 个 token 全部用于思考。请增加最多 token 数，或关闭思考。"
    )
    assert view.text("#verdict").startswith("经过代理，500 毫秒后出现首个内容；直连没有出现。")
    in_english(view)


def test_tokens_that_were_not_counted_are_not_numbered(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    think_only(both["proxied"], reason="stop", usage=None)
    both["direct"].say("done", t_s=1.0, finish_reason="stop", usage=None)
    both["direct"].end()
    view.until_text("#pane-proxied .notice", "all tokens went to thinking.")
    view.until_text("#pane-direct .notice", "No visible text came.")
    assert "Allow more" not in view.text("#pane-proxied .notice")
    assert view.text("#verdict") == ""


NO_KEY = {
    "zh": {"code": "1001", "message": "Header中未收到Authorization参数，无法进行身份验证。"},
    "en": {"code": "unauthorized", "message": "API key is missing"},
}


@pytest.mark.parametrize("error", NO_KEY.values(), ids=NO_KEY.keys())
def test_a_missing_key_is_asked_for(view: View, admin: FakeAdmin, error: dict[str, Any]) -> None:
    for asked in send(view, admin).values():
        asked.say("head", status=401, t_s=0.1, headers={})
        asked.say("error", t_s=0.1, status=401, **error)
        asked.end()
    for way in ("proxied", "direct"):
        view.until_text(f"#pane-{way} .notice", "has no key of its own: enter one above.")
        assert view.find(f"#pane-{way} .notice").is_displayed()
        assert error["message"] in view.text(f"#pane-{way} .problem")
    in_chinese(view)
    assert view.text("#pane-direct .notice") == "这个 endpoint 没有自己的 key：请在上面填写一个。"
    in_english(view)


def test_a_key_that_was_sent_and_refused_is_not_called_missing(
    view: View, admin: FakeAdmin
) -> None:
    ready(view)
    view.find("#key").send_keys("sk-own")
    view.find("#send").click()
    for asked in admin.asked_both_ways().values():
        asked.say("error", t_s=0.1, status=401, **NO_KEY["zh"])
        asked.end()
    view.until_text("#pane-direct .problem", "401 1001")
    assert view.text("#pane-direct .notice") == ""
    view.find("#key").clear()
    view.find("#send").click()
    for asked in admin.asked_both_ways().values():
        asked.say("error", t_s=0.1, status=401, code="1004", message="the token did not verify")
        asked.end()
    view.until_text("#pane-direct .problem", "401 1004")
    assert view.text("#pane-direct .notice") == ""


def test_a_request_of_the_playground_leads_to_its_exchange(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    both["proxied"].say("head", status=200, t_s=0.3, headers=HEADERS)
    view.until(lambda: times(view, "proxied")["Request"] == "req-7")
    assert view.all("#pane-proxied a[href]") == []  # it is not over: nobody keeps it yet
    play(both["proxied"], first=0.5, headers=HEADERS)
    play(both["direct"], first=0.5, headers={"x-log-id": "log-1"})
    view.until_text("#verdict", "at the same time")
    assert times(view, "direct")["Request"] == "log-1"
    assert view.all("#pane-direct a[href]") == []
    view.find("#pane-proxied a[href]").click()
    view.until(lambda: view.all("#detail[open] .bars"))
    assert "req-7" in view.text("#detail .all-fields")
    assert view.browser.current_url.endswith("/#exchange=req-7")


def test_what_is_filled_in_is_sent_and_nothing_else(view: View, admin: FakeAdmin) -> None:
    ready(view)
    Select(view.find("#model")).select_by_visible_text("glm-4.7")
    Select(view.find("#endpoint")).select_by_visible_text("global")
    Select(view.find("#thinking")).select_by_value("disabled")
    view.find("#max-tokens").clear()
    view.find("#max-tokens").send_keys("64")
    view.find("#key").send_keys("sk-own")
    view.find("#send").click()
    both = admin.asked_both_ways()
    common = {
        "model": "glm-4.7",
        "prompt": "Say hello.",
        "max_tokens": 64,
        "thinking": "disabled",
        "key": "sk-own",
    }
    assert both["proxied"].body == {**common, "way": "proxied"}
    assert both["direct"].body == {**common, "way": "direct", "endpoint": "global"}
    for asked in both.values():
        asked.end()


def test_the_direct_way_may_have_another_model(view: View, admin: FakeAdmin) -> None:
    ready(view)
    Select(view.find("#direct-model")).select_by_value("glm-4-flash")
    view.find("#send").click()
    both = admin.asked_both_ways()
    assert both["proxied"].body["model"] == "glm-4.6"
    assert both["direct"].body["model"] == "glm-4-flash"
    for asked in both.values():
        assert asked.body.keys() & {"key", "thinking"} == set()
        asked.end()


def test_stop_ends_both_ways(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    both["proxied"].say("delta", t_s=0.5, kind="content", text="Once upon")
    view.until(lambda: answer(view, "proxied") == ["Once upon"])
    assert view.find("#send").get_attribute("aria-disabled") == "true"
    view.find("#stop").click()
    assert all(asked.left.wait(15) for asked in both.values())
    view.until_text("#pane-proxied .pane-state", "Stopped.")
    view.until_text("#pane-direct .pane-state", "Stopped.")
    assert answer(view, "proxied") == ["Once upon"]
    assert view.find("#send").get_attribute("aria-disabled") == "false"


def test_an_error_of_the_upstream_is_told_in_its_pane(view: View, admin: FakeAdmin) -> None:
    both = send(view, admin)
    both["direct"].say("head", status=429, t_s=0.2, headers={})
    both["direct"].say("error", t_s=0.2, status=429, code="1302", message="并发数过高 <b>now</b>")
    for asked in both.values():
        asked.end()
    view.until_text("#pane-direct .problem", "429 1302: 并发数过高 <b>now</b>")
    view.until_text("#pane-direct .pane-state", "Finished: 1302")
    assert view.all("#pane-direct b") == []


def test_a_wrong_token_is_told_and_not_remembered(view: View, admin: FakeAdmin) -> None:
    view.until(lambda: view.all("#model option"))
    view.find("#token").send_keys("not-it")
    view.find("#send").click()
    view.until_text("#ask-problem", "The token was refused.")
    assert view.find("#ask-problem").get_attribute("role") == "alert"
    view.until_text("#pane-direct .pane-state", "The token was refused.")
    assert view.run("return sessionStorage.length") == 0


def test_without_a_token_nothing_is_sent(view: View, admin: FakeAdmin) -> None:
    view.until(lambda: view.all("#model option"))
    view.find("#send").click()
    view.until_text("#ask-problem", "Enter the operator's token first")
    assert view.focused == "token"
    assert view.text("#pane-proxied .pane-state") == "Nothing sent yet."


def test_the_token_is_kept_for_this_tab_only(view: View, admin: FakeAdmin) -> None:
    for asked in send(view, admin).values():
        asked.end()
    view.until_text("#pane-direct .pane-state", "The stream ended")
    assert TOKEN in view.run("return Object.values(sessionStorage)")
    assert TOKEN not in view.run("return JSON.stringify(localStorage) + document.cookie")
    assert TOKEN not in view.browser.current_url
    view.open(admin.url)
    assert view.find("#token").get_property("value") == TOKEN
    assert view.find("#token").get_attribute("type") == "password"


def test_a_refusal_is_told_in_its_own_words(view: View, admin: FakeAdmin) -> None:
    admin.refusal = (400, "endpoint: there is no 'x'")
    ready(view)
    view.find("#send").click()
    view.until_text("#ask-problem", "Refused with status 400: endpoint: there is no 'x'")
    admin.refusal = (403, "admin.token is not set")
    view.find("#send").click()
    view.until_text("#ask-problem", "Not allowed: admin.token is not set")


def test_a_proxy_that_went_away_is_told(view: View, admin: FakeAdmin) -> None:
    ready(view)
    admin.close()
    view.find("#send").click()
    view.until_text("#pane-proxied .pane-state", "The proxy's admin listener did not answer.")


def test_a_playground_that_is_off_says_why(browser: Chrome, admin: FakeAdmin) -> None:
    admin.status = a_status(playground={"enabled": False, "reason": "admin.token is not set"})
    view = View(browser)
    view.open(admin.url)
    view.until_text("#playground-off", "The playground is off: admin.token is not set")
    assert not view.find("#ask").is_displayed()


def test_keys_alone_fill_in_and_send(view: View, admin: FakeAdmin) -> None:
    view.until(lambda: view.all("#model option"))
    view.run("document.querySelector('nav a[href=\"#playground\"]').focus()")
    view.keys(Keys.ENTER)
    for _ in range(40):
        if view.focused == "token":
            break
        view.keys(Keys.TAB)
    assert view.focused == "token"
    view.keys(TOKEN)
    order = ["model", "endpoint", "direct-model", "thinking", "max-tokens", "key", "prompt", "send"]
    for name in order:
        view.keys(Keys.TAB)
        assert view.focused == name
    outline = view.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    view.keys(Keys.SPACE)
    both = admin.asked_both_ways()
    assert view.focused == "send"  # where it was: a button that is busy keeps the focus
    view.keys(Keys.TAB)
    assert view.focused == "stop"
    view.keys(Keys.ENTER)
    assert all(asked.left.wait(15) for asked in both.values())
    view.until(lambda: view.find("#send").get_attribute("aria-disabled") == "false")
    view.find("#prompt").send_keys("Say it.", Keys.CONTROL, Keys.ENTER)
    for asked in admin.asked_both_ways().values():
        assert asked.body["prompt"].endswith("Say it.")
        asked.end()
