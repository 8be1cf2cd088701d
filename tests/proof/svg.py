"""An SVG document, written piece by piece: shapes by class, all text escaped, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

SERIES_COLOURS: Final = 10
HEAT_COLOURS: Final = 8

_LIGHT: Final = (
    "--page:#f4f5f7;--panel:#ffffff;--edge:#d9dce3;--text:#1f2430;--soft:#626b7b;--grid:#e6e8ed;"
    "--green:#1a7f45;--orange:#b45f06;--red:#c4272e;--blue:#2c63c8"
)
_DARK: Final = (
    "--page:#111217;--panel:#181b1f;--edge:#2c3038;--text:#dcdee4;--soft:#9aa1ae;--grid:#2a2e36;"
    "--green:#5bbf7c;--orange:#f0993a;--red:#f2666c;--blue:#6ea3ff"
)
_PALETTE_LIGHT: Final = (
    *("#3a7d34", "#c08a00", "#2f7fb5", "#c8541b", "#b3312e"),
    *("#5f6fc4", "#a14fa8", "#117d78", "#806219", "#66707f"),
)
_PALETTE_DARK: Final = (
    *("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e5605b"),
    *("#7f95ef", "#cf78d6", "#38b5ad", "#c2a24b", "#a3acb9"),
)
_HEAT_LIGHT: Final = (
    *("#fdeeda", "#fddcb4", "#fcc183", "#fba154"),
    *("#f37f2c", "#dc5f10", "#b44508", "#843106"),
)
_HEAT_DARK: Final = (
    *("#3a2413", "#553014", "#743d12", "#964c10"),
    *("#b8600f", "#dc7a1b", "#f39c43", "#ffca8a"),
)
# What XML 1.0 does not allow in a document, escaped or not.
_FORBIDDEN: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW: Final = set("iljtfrI.,:;|'!()[]{}/ ")


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in pixels, in an ordinary sans-serif font."""
    return sum(size * _wide(char) for char in text)


def _wide(char: str) -> float:
    if char in _NARROW:
        return 0.38
    if ord(char) > 0x2E80:
        return 1.0
    return 0.78 if char.isupper() or char in "mw%@" else 0.61


def fitted(text: str, size: float, width: float) -> str:
    """The text, or as much of its begin as has room."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


class Svg:
    """One document. Coordinates in pixels from the upper left corner."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._width, self._height = width, height
        self._parts = [f"<title>{_safe(title)}</title>", f"<style>{_style()}</style>"]
        self.rect(0, 0, width, height, "page")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        css: str = "t",
        *,
        anchor: str = "start",
        size: float = 12,
        fit: float | None = None,
    ) -> None:
        """One line; `fit` is the width it has."""
        shown = text if fit is None else fitted(text, size, fit)
        where = f'x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"'
        end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(f'<text class="{css}" {where}{end}>{_safe(shown)}</text>')

    def rect(
        self, x: float, y: float, width: float, height: float, css: str, *, round_: float = 0
    ) -> None:
        corner = f' rx="{_n(round_)}"' if round_ else ""
        size = f'width="{_n(width)}" height="{_n(height)}"'
        self._parts.append(f'<rect class="{css}" x="{_n(x)}" y="{_n(y)}" {size}{corner}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self._parts.append(f'<path class="{css}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>')

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line through points; one point alone is a dot."""
        if not points:
            return
        if len(points) == 1:
            points = [points[0], (points[0][0] + 0.1, points[0][1])]
        way = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self._parts.append(f'<path class="{css}" d="M{way}"/>')

    def area(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A filled outline."""
        way = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self._parts.append(f'<path class="{css}" d="M{way}Z"/>')

    def cells(self, corners: Sequence[tuple[float, float]], w: float, h: float, css: str) -> None:
        """Rectangles of one size and class, as one path."""
        one = f"h{_n(w)}v{_n(h)}h{_n(-w)}z"
        way = "".join(f"M{_n(x)} {_n(y)}{one}" for x, y in corners)
        if way:
            self._parts.append(f'<path class="{css}" d="{way}"/>')

    def begin(self, title: str) -> None:
        """A group, named for who cannot see it."""
        self._parts.append(f"<g role='img' aria-label={quoteattr(_plain(title))}>")

    def end(self) -> None:
        self._parts.append("</g>")

    def document(self) -> str:
        """All of it."""
        size = f'width="{_n(self._width)}" height="{_n(self._height)}"'
        box = f'viewBox="0 0 {_n(self._width)} {_n(self._height)}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img">'
        return "\n".join((head, *self._parts, "</svg>", ""))


def _style() -> str:
    rules = [
        f":root{{{_LIGHT}}}",
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}",
        ".t{fill:var(--text)}.soft{fill:var(--soft)}.b{fill:var(--text);font-weight:600}",
        ".page{fill:var(--page)}.panel{fill:var(--panel);stroke:var(--edge)}",
        ".grid{stroke:var(--grid);fill:none}.track{fill:var(--grid)}",
        ".line{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}",
        ".limit{fill:none;stroke-dasharray:5 4}.mark{fill:none;stroke-dasharray:2 3}",
        ".thin{fill-opacity:.1}.thick{fill-opacity:.55}",
    ]
    for name in ("green", "orange", "red", "blue", "text", "soft"):
        rules.append(f".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}")
    for n in range(SERIES_COLOURS):
        rules.append(f".f{n}{{fill:var(--c{n})}}.s{n}{{stroke:var(--c{n})}}")
    rules += [f".h{n}{{fill:var(--h{n})}}" for n in range(HEAT_COLOURS)]
    rules.append(f":root{{{_variables(_PALETTE_LIGHT, _HEAT_LIGHT)}}}")
    dark = f"{_DARK};{_variables(_PALETTE_DARK, _HEAT_DARK)}"
    rules.append(f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}")
    return "".join(rules)


def _variables(palette: Sequence[str], heat: Sequence[str]) -> str:
    series = [f"--c{n}:{colour}" for n, colour in enumerate(palette)]
    cells = [f"--h{n}:{colour}" for n, colour in enumerate(heat)]
    return ";".join((*series, *cells))


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _safe(text: str) -> str:
    return escape(_plain(text))


def _n(value: float) -> str:
    """With one digit behind the point at most."""
    return f"{value:.1f}".removesuffix(".0")
