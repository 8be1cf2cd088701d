"""One browser for all tests of the page; for each test a listener and an origin of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.page.browser import browser_log, chromium
from tests.page.fake_admin import FakeAdmin
from tests.page.view import View, set_media, set_size


class OneBrowser:
    """Starts when the first test asks for it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._browser: Chrome | None = None

    def get(self, binary: str, driver: str) -> Chrome:
        if self._browser is None:
            self._browser = self._stack.enter_context(chromium(binary, driver, self._folder))
        return self._browser


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneBrowser]:
    with ExitStack() as stack:
        yield OneBrowser(tmp_path_factory.mktemp("chromium"), stack)


@pytest.fixture
def browser(needs_program: Callable[[str], str], one_browser: OneBrowser) -> Iterator[Chrome]:
    """1366 by 900, light. What the page itself did wrong fails the test when it is over."""
    browser = one_browser.get(needs_program("chromium"), needs_program("chromedriver"))
    set_size(browser, 1366, 900)
    set_media(browser)
    browser_log(browser)  # what another test left
    yield browser
    complaints = [entry for entry in browser_log(browser) if entry["source"] != "network"]
    browser.get("about:blank")
    assert complaints == []


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    with FakeAdmin() as admin:
        yield admin


@pytest.fixture
def view(browser: Chrome, admin: FakeAdmin) -> View:
    """The page, opened, its first figures shown."""
    view = View(browser)
    view.open(admin.url)
    return view
