"""The guide: every link leads somewhere, and every file that a command names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.config import load
from tests.deploy.settings import loadable

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "deploy").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As the usual renderers make them of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"^#{1,4} (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), link
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_command_names_is_there(page: Path) -> None:
    for name in re.findall(
        r"(?<![\w/.])(?:deploy|requirements|config)/[\w./*-]+", page.read_text("utf-8")
    ):
        wanted = name.rstrip(".")
        assert list(ROOT.glob(wanted)) or wanted == "deploy/compose/secrets/grafana-password", name


def test_both_readmes_show_the_same_settings_of_a_service() -> None:
    english, chinese = (
        re.findall(r"^# /etc/glm-proxy/proxy.yaml.*?^```", page.read_text("utf-8"), re.M | re.S)
        for page in PAGES[:2]
    )
    assert len(english) == len(chinese) == 1
    lines = [re.sub(r" *#.*", "", text) for text in (english[0], chinese[0])]
    assert lines[0] == lines[1]


def test_the_guides_settings_are_ones_that_the_proxy_takes(tmp_path: Path) -> None:
    for page in (ROOT / "README.md", ROOT / "deploy" / "README.md"):
        (found,) = re.findall(
            r"^# /etc/glm-proxy/proxy.yaml.*?(?=^```)", page.read_text("utf-8"), re.M | re.S
        )
        path = tmp_path / "guide" / "proxy.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, "utf-8")
        config = load(loadable(path, tmp_path), {})
        assert config.access == "keys"
