"""Pictures keep what they show when their file becomes smaller."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from selenium.webdriver import Chrome

from tests.page.fake_admin import FakeAdmin
from tests.page.png import with_palette
from tests.page.view import View, set_size

PIXELS = """
    const done = arguments[1], picture = new Image();
    picture.onload = () => {
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [picture.width, picture.height];
      const context = canvas.getContext('2d');
      context.drawImage(picture, 0, 0);
      done([...context.getImageData(0, 0, canvas.width, canvas.height).data]);
    };
    picture.src = 'data:image/png;base64,' + arguments[0]"""


def pixels(browser: Chrome, png: bytes) -> list[int]:
    """As the browser reads the file."""
    found: list[int] = browser.execute_async_script(PIXELS, base64.b64encode(png).decode())
    return found


def test_a_smaller_picture_shows_the_same(browser: Chrome, admin: FakeAdmin) -> None:
    View(browser).open(admin.url)
    set_size(browser, 300, 200)
    clip = {"x": 0, "y": 0, "width": 120, "height": 90, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    before = base64.b64decode(shot["data"])
    after = with_palette(before)
    assert len(after) < len(before)
    pairs = zip(pixels(browser, after), pixels(browser, before), strict=True)
    differences = [abs(one - other) for one, other in pairs]
    assert max(differences) <= 24  # of 255, at the rims of letters
    assert sum(differences) / len(differences) < 0.1


def test_what_is_no_rgb_picture_is_refused() -> None:
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = struct.pack(">I", len(head)) + b"IHDR" + head
    body += struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(ValueError, match="only 8 bits"):
        with_palette(b"\x89PNG\r\n\x1a\n" + body)
