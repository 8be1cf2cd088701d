"""Debian's Chromium, driven through its own driver; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-features=BackForwardCache",  # a page that was left does not go on beside the next
    "--no-proxy-server",
    "--lang=en-US",
)


@contextmanager
def chromium(binary: str, driver: str, folder: Path) -> Iterator[Chrome]:
    """A browser with an empty profile in `folder`, ended on leaving."""
    options = ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.set_page_load_timeout(30)
        browser.set_script_timeout(30)
        yield browser
    finally:
        browser.quit()


def browser_log(browser: Chrome) -> list[dict[str, Any]]:
    """What the browser has logged since it was asked last: errors, refused loads, violations."""
    entries: list[dict[str, Any]] = browser.execute("getLog", {"type": "browser"})["value"]
    return entries
