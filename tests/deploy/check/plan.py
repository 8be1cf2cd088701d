"""Which checks there are, in which order, and what nothing here can look at."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from tests.deploy.check import image, kubernetes, supply
from tests.deploy.check.bench import ROOT, Check, program, ran


def composed(folder: Path) -> str:
    checker = program("check-jsonschema", "make .venv-deploy")
    path = ROOT / "deploy" / "compose.yaml"
    ran([checker, "--builtin-schema", "vendor.compose-spec", str(path)])
    return "as the specification of compose files has it"


def tested(folder: Path) -> str:
    """The tests of deploy/: nginx, HAProxy, Caddy and Redis are run, promtool and systemd-analyze
    are asked."""
    told = ran([sys.executable, "-m", "pytest", "-q", "-rPs", "tests/deploy"], timeout=600)
    figures = re.findall(r"^(.* adds .*|exposure level .*)$", told, re.M)
    ended = told.strip().splitlines()[-1]
    return "\n      ".join([ended, *figures])


DEPLOY: Final = (
    Check("the Dockerfile is clean", "hadolint", image.linted),
    Check("the Dockerfile's build commands work", "run in a folder", image.built),
    Check("the image runs with a read-only root", "unshare", image.runs_read_only),
    Check("the unit's filter lets all through", "strace, systemd-analyze", image.calls_what_it_may),
    Check("compose.yaml is valid", "check-jsonschema", composed),
    Check("the chart renders, and refuses mistakes", "helm", kubernetes.linted),
    Check("the chart packs", "helm", kubernetes.packaged),
    Check("the manifests are valid", "kubernetes-validate", kubernetes.accepted),
    Check("the cluster's rules are valid", "promtool", kubernetes.rules_hold),
    Check("chart and Kustomize folder agree", "helm, kubectl", kubernetes.the_same),
    Check("the proxy takes the rendered settings", "the proxy", kubernetes.settings_taken),
    Check("fronts, edge, units, rules, Redis work", "pytest tests/deploy", tested),
)
RELEASE: Final = (
    Check("the locks are complete", "uv", supply.complete),
    Check("what ships installs by hash alone", "pip", supply.installed),
    Check("nothing runs at the interpreter's start", "find", supply.quiet_start),
    Check("licences are known and allowed", "the packages' own words", supply.licensed),
    Check("the bill of materials names all", "cyclonedx-py", supply.billed),
    Check("the wheel is the same when built again", "hatchling", supply.reproduced),
    Check("the lowest versions work", "uv, pytest", supply.lowest),
    Check("the code has no known weak spots", "bandit", supply.searched),
)
PLANS: Final[dict[str, tuple[tuple[Check, ...], tuple[str, ...]]]] = {
    "deploy": (
        DEPLOY,
        (
            "building and running the image: takes a container engine and the base image",
            "compose up: the same",
            "applying to a cluster, scaling, rolling: takes one",
            "starting the units: takes a running systemd",
            "the dashboards in Grafana: takes one",
        ),
    ),
    "release": (RELEASE, ("known vulnerabilities of the packages: takes the network",)),
}
