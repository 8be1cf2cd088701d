"""The chart and the Kustomize folder, as far as it takes neither helm nor kubectl: those are asked
by `make deploy-check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.build import texts
from proxy import __version__
from proxy.config import load
from proxy.observe.table import entries
from tests.deploy.settings import loadable

FOLDER = Path(__file__).parents[2] / "deploy"
CHART = FOLDER / "helm" / "glm-proxy"
BASE = FOLDER / "kubernetes" / "base"
MONITORING = FOLDER / "kubernetes" / "monitoring"


def read(path: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


VALUES = read(CHART / "values.yaml")


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_what_is_made_from_rules_and_dashboards_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == texts()[path], "run: python -m deploy.build"


def test_the_rule_resource_holds_all_groups_of_the_rules() -> None:
    rules = sorted((FOLDER / "prometheus" / "rules").glob("*.yml"))
    groups = [group for path in rules for group in read(path)["groups"]]
    assert read(MONITORING / "prometheusrule.yaml")["spec"]["groups"] == groups


def test_the_chart_has_the_proxys_version() -> None:
    chart = read(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    for path in (BASE, FOLDER / "kubernetes" / "example"):
        (image,) = read(path / "kustomization.yaml")["images"]
        assert image["newTag"] == __version__


def test_the_chart_and_the_folder_have_the_same_settings() -> None:
    assert VALUES["settings"] == read(BASE / "proxy.yaml")


def test_the_settings_are_ones_that_the_proxy_takes(tmp_path: Path) -> None:
    config = load(loadable(BASE / "proxy.yaml", tmp_path), {})
    assert config.admin.token is not None
    names = {path.name for path in (tmp_path / "secrets").iterdir()}
    assert names == set(VALUES["secrets"]["entries"])
    volumes = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]["volumes"]
    (secret,) = [one["secret"] for one in volumes if "secret" in one]
    assert {item["key"] for item in secret["items"]} == names


def test_a_pod_has_longer_to_end_than_its_streams(tmp_path: Path) -> None:
    drain = load(loadable(BASE / "proxy.yaml", tmp_path), {}).server.drain_timeout
    wait = VALUES["preStopSeconds"]
    assert VALUES["terminationGracePeriodSeconds"] > drain + wait
    pod = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == VALUES["terminationGracePeriodSeconds"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[-1] == f"import time; time.sleep({wait})"


def test_pods_are_scaled_by_a_metric_that_is_there() -> None:
    wanted = {
        VALUES["autoscaling"]["metric"],
        read(BASE / "hpa.yaml")["spec"]["metrics"][0]["pods"]["metric"]["name"],
    }
    adapter = read(FOLDER / "kubernetes" / "prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    wanted.add(rule["seriesQuery"].partition("{")[0])
    assert len(wanted) == 1
    assert wanted <= {entry.name for entry in entries()}


def test_a_pod_is_confined_as_the_restricted_standard_asks() -> None:
    pod = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = next(one["secret"] for one in pod["volumes"] if "secret" in one)
    assert secrets["defaultMode"] == 0o440  # others cannot read: no warning


def test_no_manifest_holds_a_secret() -> None:
    for path in [*CHART.rglob("*.yaml"), *(FOLDER / "kubernetes").rglob("*.yaml")]:
        assert not re.search(r"^kind: Secret$", path.read_text("utf-8"), re.M), path


def test_everything_that_is_named_is_there() -> None:
    for path in (FOLDER / "kubernetes").rglob("kustomization.yaml"):
        found = read(path)
        named = [*found.get("resources", ()), *found.get("components", ())]
        named += [name for one in found.get("configMapGenerator", ()) for name in one["files"]]
        for name in named:
            assert (path.parent / name).exists(), f"{path}: {name}"
    resources = {path.name for path in BASE.glob("*.yaml")}
    listed = set(read(BASE / "kustomization.yaml")["resources"])
    assert resources - listed == {"kustomization.yaml", "proxy.yaml"}


def test_every_probe_asks_a_path_of_the_admin_listener() -> None:
    (container,) = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    probes = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert probes["liveness"]["path"] == "/livez"
    assert probes["readiness"]["path"] == probes["startup"]["path"] == "/readyz"
