"""Pictures of the page for the README: `python -m tests.page.pictures FOLDER [--seconds N]`.

A real proxy before two simulated endpoints gets traffic with some faults, and Debian's Chromium
looks at its page.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import Select

from tests.page.browser import chromium
from tests.page.png import with_palette
from tests.page.real import TOKEN, RealProxy
from tests.page.view import View, set_media, set_size

WIDE, PHONE = 1366, 390
RATE = 1.6
"""Requests a second."""
MOST = 150 * 1024
"""Bytes of one picture."""
TRIES = 30


class Area(NamedTuple):
    """A part of the page over its whole width, in CSS pixels."""

    y: float
    height: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=600.0, help="of traffic before them")
    asked = parser.parse_args()
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        print("to draw them: apt-get install -y chromium chromium-driver", file=sys.stderr)
        return 1
    asked.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="pictures-") as folder,
        RealProxy(Path(folder), profile="default") as proxy,
    ):
        proxy.begin_traffic(RATE)
        print(f"{asked.seconds:g} s of traffic on {proxy.url}", flush=True)
        time.sleep(asked.seconds)
        with chromium(binary, driver, Path(folder) / "chromium") as browser:
            draw(browser, proxy.url, asked.folder)
    sizes = {path.name: path.stat().st_size for path in sorted(asked.folder.glob("page-*.png"))}
    for name, size in sizes.items():
        print(f"{name}: {size / 1024:.0f} KiB")
    return int(max(sizes.values()) > MOST)


def draw(browser: Chrome, url: str, folder: Path) -> None:
    """All five."""
    view = View(browser)
    set_size(browser, WIDE, 3600)  # higher than the page: no scroll bar
    view.open(url)
    view.until(lambda: len(view.rows) >= 20)
    view.until(lambda: view.all("#model option"))
    time.sleep(2.5)  # some seconds of figures, and rows that come live
    view.until(partial(is_mixed, view), within=90)
    take(view, folder / "page-desktop.png", down_to(view, "#connections"))
    set_media(browser, prefers_color_scheme="dark")
    time.sleep(1.5)
    take(view, folder / "page-dark.png", down_to(view, "#running"))
    set_media(browser)
    view.run("document.getElementById('language').click()")
    time.sleep(1.5)
    take(view, folder / "page-chinese.png", down_to(view, "#running"))
    view.run("document.getElementById('language').click()")
    play(view, folder / "page-playground.png")
    set_size(browser, PHONE, 2400, phone=True)
    view.run("scrollTo(0, 0)")
    time.sleep(1.5)
    take(view, folder / "page-phone.png", down_to(view, "#exchanges"))


def is_mixed(view: View) -> bool:
    """Answers with and without reasoning, and one of several attempts, are among the newest."""
    counts: list[int] = view.run(
        "const rows = [...document.querySelectorAll('#waterfall tr[data-id]')].slice(0, 15);"
        "return ['.stage-reasoning', '.badge'].map((css) =>"
        "  rows.filter((row) => (row.querySelector(css)?.offsetWidth ?? 0) > 12).length)"
    )
    return counts[0] >= 2 and counts[1] >= 1


def play(view: View, path: Path) -> None:
    """Both ways have answered."""
    view.find("#token").send_keys(TOKEN)
    Select(view.find("#model")).select_by_visible_text("glm-4.6")
    view.run("document.getElementById('send').click(); document.activeElement.blur()")
    for way in ("proxied", "direct"):
        view.until_text(f"#pane-{way} .pane-state", "Finished", within=60)
    time.sleep(0.5)
    take(view, path, partial(box, view, "#playground"))


def box(view: View, css: str) -> Area:
    """An element, and a little around it."""
    top, bottom = view.run(
        "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [box.top + scrollY, box.bottom + scrollY]",
        css,
    )
    return Area(top - 8, bottom - top + 16)


def down_to(view: View, css: str) -> Callable[[], Area]:
    """From the top of the page to an element's end, and a little more."""

    def measure() -> Area:
        element = box(view, css)
        return Area(0, element.y + element.height + 4)

    return measure


def take(view: View, path: Path, measure: Callable[[], Area]) -> None:
    """What is measured. Rows come and go each second: a picture counts only if nothing has moved
    while it was taken, or it would end in a piece of what follows. RuntimeError: it never stood
    still."""
    width = view.run("return document.documentElement.clientWidth")
    for _ in range(TRIES):
        area = measure()
        clip = {"x": 0, "width": width, "scale": 1, **area._asdict()}
        order = {"format": "png", "clip": clip}
        shot = view.browser.execute_cdp_cmd("Page.captureScreenshot", order)
        if measure() == area:
            path.write_bytes(with_palette(base64.b64decode(shot["data"])))
            return
    raise RuntimeError(f"{path.name}: the page did not stand still in {TRIES} tries")


if __name__ == "__main__":
    sys.exit(main())
