"""The settings of the two proxies and of Prometheus: every part that has a metric is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tests.proof.plan import MODELS

JOB: Final = "glm-proxy"


def proxy(
    folder: Path, *, north: str, south: str, ca_file: str, port: int, admin: int
) -> dict[str, Any]:
    """One proxy before both endpoints."""
    return {
        "server": {"port": port, "drain_timeout": "5s"},
        "admin": {"port": admin},
        "state": "memory",
        "endpoints": [
            {
                "name": "north",
                "region": "cn",
                "base_url": north,
                "ca_file": ca_file,
                "key_groups": {"pooled": [f"file:{folder}/key-1", f"file:{folder}/key-2"]},
            },
            {"name": "south", "region": "eu", "base_url": south},
        ],
        "pool": {
            "warm_connections": 2,
            "streams_per_connection": 8,
            "idle_timeout": "5s",
            "max_age": "40s",
            "ping_interval": "1s",
            "ping_timeout": "2s",
            "connect_timeout": "2s",
        },
        "stream": {"heartbeat": "2s"},
        "timeouts": {"first_token": "20s", "idle": "8s"},
        "attempts": {"retries": 1, "breaker": {"failures": 4, "within": "10s", "open_for": "2s"}},
        "routes": [*_simple(folder, port), *_busy()],
        "log": {"format": "json", "level": "warning"},
    }


def _simple(folder: Path, port: int) -> list[dict[str, Any]]:
    return [
        _route("plain", {"endpoint": "north"}, admission={"limit": "off"}),
        _route("http1", {"endpoint": "south"}, admission={"limit": "off"}),
        _route(
            "early",
            {"endpoint": "north"},
            {"endpoint": "south"},
            commit="early",
            stream={"heartbeat": "700ms"},
        ),
        _route("shared", {"endpoint": "north"}, share=True),
        _route(
            "told",
            {"endpoint": "north"},
            stream={"emit_metadata": True, "text_buffer_size": 12, "text_buffer_max_delay": "50ms"},
            memory={"store": f"sqlite:{folder}/memory-{port}.db", "wait": "20ms"},
        ),
        _route("folded", {"endpoint": "south"}, stream={"upgrade": True}),
        _route(
            "pooled",
            {"endpoint": "north", "keys": "pooled"},
            cache={"store": f"sqlite:{folder}/answers-{port}.db"},
            on_disconnect={"keep": "10s"},
        ),
    ]


def _busy() -> list[dict[str, Any]]:
    return [
        _route(
            "fast-chat",
            {"model": "glm-4-flash", "endpoint": "north"},
            {"model": "glm-4-air", "endpoint": "south"},
            first_content_target="5s",
            params={
                "force": {"thinking": "disabled"},
                "fill": {"temperature": 0.5},
                "cap": {"max_tokens": 4096},
            },
            hedge={"after": "p97", "min": "800ms", "max": "2500ms", "budget": "5%"},
        ),
        _route(
            "hedged",
            {"endpoint": "north"},
            {"endpoint": "south"},
            attempts={"retries": 0},
            hedge={"after": "p80", "min": "400ms", "max": "900ms", "budget": "20%"},
        ),
        _route(
            "failover",
            {"endpoint": "north"},
            {"model": "glm-4-air", "endpoint": "south"},
            attempts={"retries": 2, "retry_budget": "100%", "breaker": "off"},
        ),
        _route("limited", {"endpoint": "north"}, admission={"limit": "learned", "wait": "2s"}),
    ]


def _route(name: str, *candidates: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"name": name, "match": {"model": [MODELS[name]]}, "candidates": [*candidates], **more}


def prometheus(folder: Path, rules: Path, targets: list[str], every: int, scrape: int) -> Path:
    """The configuration file, and beside it the rules, evaluated each `every` seconds.

    The rules' own intervals are made for days; a run has minutes. `scrape`: seconds between two
    scrapes.
    """
    names = []
    for path in sorted(rules.glob("*.y*ml")):
        read = yaml.safe_load(path.read_text("utf-8"))
        for group in read["groups"]:
            group["interval"] = f"{every}s"
        names.append(write(folder / f"rules-{path.stem}.yml", read).name)
    scraped = {"job_name": JOB, "static_configs": [{"targets": targets}]}
    settings = {
        "global": {
            "scrape_interval": f"{scrape}s",
            "scrape_timeout": f"{scrape}s",
            "evaluation_interval": f"{every}s",
        },
        "rule_files": names,
        "scrape_configs": [scraped],
    }
    return write(folder / "prometheus.yml", settings)


def write(file: Path, value: Any) -> Path:
    """As YAML."""
    file.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), "utf-8")
    return file
