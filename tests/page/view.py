"""The page as a test sees it: by what it shows, and by keys and clicks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

WITHIN = 15.0
"""Seconds for anything that a test waits for."""


def set_size(browser: Chrome, width: int, height: int, *, phone: bool = False) -> None:
    """The size of the viewport in CSS pixels, which a window cannot have when it is small."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_media(browser: Chrome, **features: str) -> None:
    """Media features, such as `prefers_color_scheme="dark"`; none sets them back."""
    named = [{"name": key.replace("_", "-"), "value": value} for key, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})


class View:
    """One page in the browser."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        """Goes there, and waits until the page is live."""
        self.browser.get(url)
        self.until(lambda: self.state == "live")

    @property
    def state(self) -> str | None:
        return self.find("#connection").get_attribute("data-state")

    def find(self, css: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """All text of the first match, shown or not; empty while there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    def texts(self, css: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        found: list[str] = self.run(script, css)
        return found

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def keys(self, *keys: str) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    @property
    def focused(self) -> str:
        """The id of what has the focus, else its text."""
        script = "const one = document.activeElement; return one.id || one.textContent.trim()"
        return str(self.run(script))

    def until(self, condition: Callable[[], object], within: float = WITHIN) -> None:
        """Looks until it holds; AssertionError after `within` seconds."""
        deadline = time.monotonic() + within
        while True:
            try:
                if condition():
                    return
            except StaleElementReferenceException:
                pass  # drawn anew between two looks
            assert time.monotonic() < deadline, "it did not come to be"
            time.sleep(0.02)

    def until_text(self, css: str, part: str, within: float = WITHIN) -> None:
        """Until the first match has `part` in its text."""
        deadline = time.monotonic() + within
        while part not in (text := self.text(css)):
            assert time.monotonic() < deadline, f"{css} is {text[:300]!r}, without {part!r}"
            time.sleep(0.02)

    @property
    def rows(self) -> list[str]:
        """The request ids of the exchanges shown, in order."""
        script = "return [...document.querySelectorAll('#waterfall tr[data-id]')]"
        found: list[str] = self.run(script + ".map((row) => row.dataset.id)")
        return found
