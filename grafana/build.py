"""Writes the dashboards as JSON: `python -m grafana.build`, from the project's folder.

Change a dashboard in `grafana/source`, run this, and commit both.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana.source import conversations, overview, process, streams, upstream
from grafana.source.dashboard import Dashboard, rendered

FOLDER = Path(__file__).with_name("dashboards")


def dashboards() -> dict[str, Dashboard]:
    """Every dashboard, by the name of its file."""
    return {
        "overview.json": overview.dashboard(),
        "upstream.json": upstream.dashboard(),
        "streams.json": streams.dashboard(),
        "conversations.json": conversations.dashboard(),
        "process.json": process.dashboard(),
    }


def texts() -> dict[str, str]:
    """What each file holds."""
    return {
        name: json.dumps(rendered(one), indent=2, ensure_ascii=False) + "\n"
        for name, one in dashboards().items()
    }


def main() -> None:
    """Writes every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
