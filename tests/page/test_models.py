"""Switched models on the page: what is shown, switching and undoing, and what is told of it."""

from __future__ import annotations

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.page.fake_admin import TOKEN, FakeAdmin
from tests.page.samples import a_switch, an_entry
from tests.page.view import View


def cells(view: View, table: str) -> list[list[str]]:
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map((row) =>
        [...row.children].map((cell) => cell.textContent))"""
    found: list[list[str]] = view.run(script, table)
    return found


def fill(view: View, model: str, to: str, token: str = TOKEN) -> None:
    view.until(lambda: view.find("#switch").is_displayed())
    for field, text in (("switch-token", token), ("switch-model", model), ("switch-to", to)):
        view.find(f"#{field}").clear()
        view.find(f"#{field}").send_keys(text)


def submit(view: View) -> None:
    view.find("#switch-to").send_keys(Keys.ENTER)


def test_what_is_switched_is_shown_as_soon_as_it_is(view: View, admin: FakeAdmin) -> None:
    view.until_text("#switches-table", "No model is switched")
    admin.entries = [an_entry(), an_entry(actor="admin", action="key.create", subject="me/abc")]
    admin.say("status", {"switches": [a_switch(), a_switch(model="own", to="b", until=None)]})
    view.until(lambda: len(cells(view, "switches-table")) == 2)
    first, second = cells(view, "switches-table")
    assert (first[0], first[1], first[3]) == ("glm-4.6", "glm-4-flash", "cli:root")
    assert ":" in first[2]
    assert second[2] == "until undone"
    view.until(lambda: len(cells(view, "audit-table")) == 2)
    assert [row[1:] for row in cells(view, "audit-table")] == [
        ["cli:root", "model switched", "glm-4.6 -> glm-4-flash for 2h"],
        ["admin", "key made", "me/abc"],
    ]
    view.run("document.getElementById('language').click()")
    assert cells(view, "audit-table")[0][2] == "切换模型"
    assert cells(view, "switches-table")[1][2] == "直到撤销"
    view.run("document.getElementById('language').click()")
    admin.say("status", {"switches": []})
    view.until_text("#switches-table", "No model is switched")


def test_a_model_is_switched_with_the_token_by_keys_alone(view: View, admin: FakeAdmin) -> None:
    fill(view, "org/model:v1", "glm-4.7")
    known = view.run(
        "return [...document.querySelectorAll('#known-models option')].map(o => o.value)"
    )
    assert known == ["glm-4.6", "glm-4-flash", "glm-4.7"]
    Select(view.find("#switch-for")).select_by_visible_text("2 hours")
    submit(view)
    view.until_text("#switch-said", "org/model:v1 is served by glm-4.7 from now on.")
    assert admin.orders == [("PUT", "org/model:v1", {"to": "glm-4.7", "for": "2h"})]
    view.until(lambda: [row[:2] for row in cells(view, "switches-table")])
    view.until_text("#audit-table", "org/model:v1 -> glm-4.7")
    assert view.find("#token").get_attribute("value") == TOKEN  # the playground's is the same
    view.open(admin.url)
    assert view.find("#switch-token").get_attribute("value") == TOKEN


def test_one_is_undone_by_its_button_and_all_by_another(view: View, admin: FakeAdmin) -> None:
    admin.status["switches"] = [a_switch(model=model) for model in ("a", "b/c", "d")]
    view.until(lambda: len(cells(view, "switches-table")) == 3)
    fill(view, "", "")
    button = view.all("#switches-table button")[1]
    assert button.accessible_name == "Undo the switch of b/c"
    button.send_keys(Keys.ENTER)
    view.until_text("#switch-said", "Undone: 1")
    view.until(lambda: [row[0] for row in cells(view, "switches-table")] == ["a", "d"])
    assert view.focused == "switch-model"  # not on the next row's button
    view.find("#switch-undo-all").send_keys(Keys.ENTER)
    view.until_text("#switch-said", "Undone: 2")
    view.until_text("#switches-table", "No model is switched")
    assert not view.find("#switch-undo-all").is_displayed()
    assert [order[:2] for order in admin.orders] == [("DELETE", "b/c"), ("DELETE", "")]


def test_what_is_refused_is_told_and_changes_nothing(view: View, admin: FakeAdmin) -> None:
    fill(view, "a", "b", token="")
    submit(view)
    view.until_text("#switch-problem", "Enter the operator's token first")
    assert view.focused == "switch-token"
    fill(view, "a", "b", token="wrong")
    submit(view)
    view.until_text("#switch-problem", "The token was refused.")
    fill(view, "a", "a")
    admin.refusal = (400, "a cannot be switched to itself")
    submit(view)
    view.until_text("#switch-problem", "status 400: a cannot be switched to itself")
    assert view.find("#switch-model").get_attribute("value") == "a"
    admin.refusal = None
    submit(view)
    view.until_text("#switch-said", "a is served by a")
    assert not view.find("#switch-problem").is_displayed()
    assert len(admin.orders) == 1


def test_without_a_token_in_the_settings_there_is_no_form(view: View, admin: FakeAdmin) -> None:
    view.until(lambda: view.find("#switch").is_displayed())
    admin.status["playground"] = {"enabled": False, "reason": "admin.token is not set"}
    admin.status["switches"] = [a_switch()]
    view.open(admin.url)
    view.until(lambda: view.find("#switch-off").is_displayed())
    assert not view.find("#switch").is_displayed()
    view.until(lambda: len(cells(view, "switches-table")) == 1)
    assert view.all("#switches-table button") == []


def test_a_listener_that_is_gone_is_told(view: View, admin: FakeAdmin) -> None:
    fill(view, "a", "b")
    admin.close()
    submit(view)
    view.until_text("#switch-problem", "did not answer")
