"""What the page is made of: fixed files, served as they are; nothing inline, nothing foreign."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.admin import page
from proxy.observe import stages

FOLDER = Path(page.__file__).parent / "page"
OURS = sorted(path for path in FOLDER.iterdir() if path.is_file())
SCRIPTS = [path for path in OURS if path.suffix == ".js"]
MARKUP = (FOLDER / "index.html").read_text()
VENDORED = {  # of npm's uplot 1.6.32, dist/ and LICENSE
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = web.Application()
    app.add_routes(page.routes())
    async with TestClient(TestServer(app)) as client:
        yield client


def test_every_file_of_the_page_is_in_the_table() -> None:
    served = {path for path, _ in page.FILES.values()}
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert there - served == {"vendor/README.md"}
    assert served <= there


@pytest.mark.parametrize("name", sorted(page.FILES))
async def test_a_file_is_served_with_its_type(client: Client, name: str) -> None:
    path, media_type = page.FILES[name]
    answer = await client.get(f"/page/{name}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
    assert await answer.read() == (FOLDER / path).read_bytes()


async def test_the_page_itself_is_the_root(client: Client) -> None:
    answer = await client.get("/")
    assert answer.content_type == "text/html"
    assert await answer.text() == MARKUP


async def test_a_browser_that_has_a_file_is_not_sent_it_again(client: Client) -> None:
    first = await client.get("/page/main.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/page/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    other = await client.get("/page/main.js", headers={"If-None-Match": '"another"'})
    assert other.status == 200


async def test_files_are_for_get_and_head_only(client: Client) -> None:
    head = await client.head("/")
    assert (head.status, await head.read()) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await client.request(method, "/page/main.js")).status == 405


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "..%2fapp.py", "%2e%2e/page.py", "vendor%2fREADME.md", "vendor"]
)
async def test_a_name_that_is_not_in_the_table_is_not_found(client: Client, name: str) -> None:
    assert (await client.get(f"/page/{name}")).status == 404


def test_the_vendored_files_are_those_of_the_package() -> None:
    sums = {
        name: hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest()
        for name in VENDORED
    }
    assert sums == VENDORED


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_files_are_small_and_say_what_they_are_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    if path.suffix in (".js", ".css"):
        assert lines[0].startswith(("// ", "/* "))


def test_the_markup_has_nothing_inline_and_asks_no_other_host() -> None:
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", MARKUP)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", MARKUP))
    links = re.findall(r'(?:src|href)="([^"]*)"', MARKUP)
    assert [link for link in links if not re.match(r"/(?!/)|#", link)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_write_text_and_never_markup(path: Path) -> None:
    script = path.read_text()
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser"
    )
    assert re.findall(unsafe, script) == []
    assert re.findall(r"https?://|//[a-z]+\.", script) == []
    imports = re.findall(r'from "([^"]*)"', script)
    assert [name for name in imports if name.removeprefix("./") not in page.FILES] == []


def test_every_stage_has_its_place_its_colour_and_its_name() -> None:
    listed = re.search(r"const STAGES = (\[.*?\]);", (FOLDER / "stages.js").read_text(), re.DOTALL)
    assert listed is not None
    assert tuple(re.findall(r'"(\w+)"', listed[1])) == stages.NAMES
    style = "".join(path.read_text() for path in OURS if path.suffix == ".css")
    for name in stages.NAMES:
        assert re.search(rf"\.stage-{name}\b", style), name
        assert f"stage_{name}" in words("en"), name


# --- words -----------------------------------------------------------------------------------


def words(language: str) -> dict[str, str]:
    text = (FOLDER / f"words_{language}.js").read_text()
    return dict(re.findall(r'^  (\w+):\s+"((?:[^"\\]|\\.)*)",$', text, re.MULTILINE))


def test_both_languages_have_the_same_words_to_fill_in() -> None:
    english, chinese = words("en"), words("zh")
    assert len(english) > 150
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", chinese[key])), key


def test_the_chinese_words_are_chinese() -> None:
    """But for names that are the same in both."""
    same = {key for key, text in words("en").items() if words("zh")[key] == text}
    assert same <= {"bar_stage", "endpoint", "p50", "p95", "ping"}
    bare = {key: re.sub(r"{\w+}", "", text) for key, text in words("zh").items()}
    latin = {key for key, text in bare.items() if re.fullmatch(r"[^\u4e00-\u9fff]*[a-z].*", text)}
    assert latin <= {"endpoint", "p50", "p95", "tokens_used"}


def test_every_word_that_is_asked_for_exists_and_every_one_is_used() -> None:
    code = "".join(path.read_text() for path in SCRIPTS if not path.name.startswith("words_"))
    asked = set(re.findall(r'data-word(?:-label)?="(\w+)"', MARKUP))
    asked |= set(re.findall(r'\bt\(\s*"(\w+)"', code))
    known = set(words("en"))
    assert asked <= known
    mentioned = asked | set(re.findall(r'"(\w+)"', code)) | set(re.findall(r"(\w+)", MARKUP))
    families = set(re.findall(r'named\("(\w+)"', code))
    families |= {"way", "running", "candidates", "connections"}
    unused = [key for key in known - mentioned if key.partition("_")[0] not in families]
    assert unused == []
