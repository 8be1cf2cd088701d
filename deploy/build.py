"""Writes what Kubernetes needs of our rules and dashboards: `python -m deploy.build`, from the
project's folder.

The rules of deploy/prometheus and the dashboards of grafana/ are the source; a chart and a
Kustomize folder can only read files of their own. Change the source, run this, and commit both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import yaml

from grafana.build import dashboards
from grafana.source.dashboard import rendered
from grafana.source.panels import Fields

HERE: Final = Path(__file__).parent
RULES: Final = HERE / "prometheus" / "rules"
CHART: Final = HERE / "helm" / "glm-proxy" / "files"
MONITORING: Final = HERE / "kubernetes" / "monitoring"
_MADE: Final = "# Made by `python -m deploy.build` from deploy/prometheus/rules; change those.\n"


class _Lines(yaml.SafeDumper):
    """Writes a text of several lines as one block, as a person would."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Lines.add_representer(str, _text)


def texts() -> dict[Path, str]:
    """What each file holds."""
    boards = {name: _compact(rendered(one)) for name, one in dashboards().items()}
    rules = {path.name: path.read_text("utf-8") for path in sorted(RULES.glob("*.yml"))}
    return {
        MONITORING / "prometheusrule.yaml": _prometheus_rule(rules),
        **{CHART / "rules" / name: text for name, text in rules.items()},
        **{
            folder / "dashboards" / name: text
            for folder in (CHART, MONITORING)
            for name, text in boards.items()
        },
    }


def _compact(board: Fields) -> str:
    """Without blanks: a ConfigMap holds 1 MiB at most, and an applied one twice."""
    return json.dumps(board, separators=(",", ":"), ensure_ascii=False) + "\n"


def _prometheus_rule(rules: dict[str, str]) -> str:
    groups = [group for text in rules.values() for group in yaml.safe_load(text)["groups"]]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "glm-proxy", "labels": {"app.kubernetes.io/name": "glm-proxy"}},
        "spec": {"groups": groups},
    }
    return _MADE + yaml.dump(made, Dumper=_Lines, sort_keys=False, allow_unicode=True, width=110)


def main() -> None:
    """Writes every file."""
    for path, text in texts().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
