"""Settings files of a demonstration: a bundled one, with its own endpoint in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from proxy.config import bundled


def write_settings(
    path: Path, bundled_name: str, endpoint: Mapping[str, Any], **sections: Mapping[str, Any]
) -> Path:
    """Writes the bundled file with this one endpoint, and `sections` over its own, to `path`."""
    settings = yaml.safe_load(bundled(bundled_name).read_text("utf-8"))
    settings["endpoints"] = [dict(endpoint)]
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return path


def write_secret(path: Path, secret: str) -> None:
    """Writes a secret to `path`, readable by this user only."""
    path.touch(mode=0o600)
    path.write_text(secret, "ascii")


def demo_settings() -> dict[str, Any]:
    """What config/demo.yaml says."""
    settings: dict[str, Any] = yaml.safe_load(bundled("demo.yaml").read_text("utf-8"))
    return settings
