"""The operator's live page: `/` and the fixed files it loads below `/page/`.

The files are packaged beside this module, read once and kept in memory. A request names one of a
fixed table, so no path of a client ever reaches the file system. The page has no inline script or
style, and asks no other host for anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import ETag, web

_INDEX = "index.html"
_SCRIPTS = (
    *("charts.js", "connection.js", "detail.js", "dom.js", "exchanges.js", "format.js", "live.js"),
    *("main.js", "models.js", "now.js", "pane.js", "playground.js", "race.js", "sse.js"),
    *("stages.js", "tables.js", "token.js", "waterfall.js", "words.js", "words_en.js"),
    "words_zh.js",
)
FILES: Mapping[str, tuple[str, str]] = {
    _INDEX: (_INDEX, "text/html"),
    "style.css": ("style.css", "text/css"),
    "parts.css": ("parts.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uPlot.min.css": ("vendor/uPlot.min.css", "text/css"),
    "uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript"),
    "uPlot.LICENSE": ("vendor/uPlot.LICENSE", "text/plain"),
    **{name: (name, "text/javascript") for name in _SCRIPTS},
}
"""For each name below `/page/`: the packaged file and its media type. All of them are UTF-8."""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def routes() -> list[web.AbstractRouteDef]:
    """`/` and `/page/NAME`, for GET and HEAD. Reads the files."""
    page = _Page({name: _read(path, media_type) for name, (path, media_type) in FILES.items()})
    return [web.get("/", page.index), web.get("/page/{name}", page.file)]


class _Page:
    """One method per path."""

    def __init__(self, held: Mapping[str, _File]) -> None:
        self._held = held

    async def index(self, request: web.Request) -> web.Response:
        return _answer(request, self._held[_INDEX])

    async def file(self, request: web.Request) -> web.Response:
        held = self._held.get(request.match_info["name"])
        if held is None:
            raise web.HTTPNotFound(text="404: the page has no such file\n")
        return _answer(request, held)


def _answer(request: web.Request, held: _File) -> web.Response:
    """The file, or 304 for a browser that has it: names stay the same from version to version, so
    it asks each time (RFC 9110, section 13.1.2)."""
    known = request.if_none_match or ()
    if any(tag.value in (held.etag, "*") for tag in known):
        answer = web.Response(status=304)
    else:
        answer = web.Response(body=held.body, content_type=held.media_type, charset="utf-8")
    answer.etag = ETag(held.etag)
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _read(path: str, media_type: str) -> _File:
    body = files("proxy.admin").joinpath("page", *path.split("/")).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()[:18])
    return _File(body, media_type, digest.decode())
