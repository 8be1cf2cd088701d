"""That a picture ends where it was measured to, although rows come and go."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.page import pictures
from tests.page.pictures import Area, down_to, take
from tests.page.view import View


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    width, height = struct.unpack_from(">II", path.read_bytes(), 16)
    return int(width), int(height)


def test_a_picture_is_taken_again_when_the_page_has_moved(view: View, tmp_path: Path) -> None:
    measured = [Area(0, 90), Area(0, 70), Area(0, 70), Area(0, 50), Area(0, 50), Area(0, 50)]
    rest = iter(measured)
    take(view, tmp_path / "one.png", lambda: next(rest))
    width = view.run("return document.documentElement.clientWidth")
    assert size(tmp_path / "one.png") == (width, 50)
    assert list(rest) == []


def test_a_page_that_never_stands_still_has_no_picture(view: View, tmp_path: Path) -> None:
    heights = iter(range(1, 1000))
    with pytest.raises(RuntimeError, match=r"one\.png: the page did not stand still"):
        take(view, tmp_path / "one.png", lambda: Area(0, next(heights)))
    assert not (tmp_path / "one.png").exists()
    assert next(heights) == 2 * pictures.TRIES + 1


def test_a_picture_down_to_a_part_ends_before_the_next(view: View) -> None:
    ends = down_to(view, "#now")().height
    parts = "return ['#now', '#exchanges'].map((one) => document.querySelector(one)"
    now, following = view.run(f"{parts}.getBoundingClientRect())")
    assert now["bottom"] < ends < following["top"]
