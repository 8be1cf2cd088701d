"""The chart by helm, the Kustomize folder by kubectl, both by the schemas of Kubernetes; and that
the two say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from proxy.config import load
from tests.deploy.check.bench import ROOT, Failed, program, ran
from tests.deploy.settings import loadable

CHART: Final = ROOT / "deploy" / "helm" / "glm-proxy"
EXAMPLE: Final = ROOT / "deploy" / "kubernetes" / "example"
VERSIONS: Final = ("1.27", "1.32", "1.37")
_ALL_ON: Final = ("serviceMonitor", "prometheusRule", "dashboards")
_VARIANTS: Final[dict[str, list[str]]] = {
    "as it is": [],
    "everything on": [f"--set={name}.enabled=true" for name in _ALL_ON],
    "everything off": [
        f"--set={name}.enabled=false"
        for name in ("autoscaling", "podDisruptionBudget", "networkPolicy")
    ],
    "pinned": [f"--set=image.digest=sha256:{'0' * 64}"],
    "much set": [
        "--set=imagePullSecrets[0].name=pull",
        "--set=service.type=LoadBalancer,service.annotations.a=b,service.port=8080",
        "--set-string=sysctls[0].name=net.core.somaxconn,sysctls[0].value=4096",
        "--set=podLabels.team=x,podAnnotations.a=b,nodeSelector.disk=ssd",
        "--set=tolerations[0].key=k,tolerations[0].operator=Exists",
        "--set=networkPolicy.extraEgress[0].ports[0].port=4318",
        "--set=serviceMonitor.labels.release=prometheus",
    ],
}
_REFUSED: Final[dict[str, str]] = {
    "a tag that moves": "--set=image.tag=latest",
    "a mistyped value": "--set=replica=3",
    "a key in the settings": "--set=settings.admin.token=abc",
    "a port that needs a privilege": "--set=settings.server.port=80",
    "no endpoint": "--set-json=settings.endpoints=[]",
}
_TEXT: Final = {"type": "string", "minLength": 1}
_RULE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["expr"],
    "additionalProperties": False,
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
    "properties": {
        "alert": _TEXT,
        "record": _TEXT,
        "expr": {"type": ["string", "integer"]},
        "for": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"},
        "keep_firing_for": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_GROUP: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "rules"],
    "additionalProperties": False,
    "properties": {
        "name": _TEXT,
        "interval": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"},
        "rules": {"type": "array", "minItems": 1, "items": _RULE},
    },
}
_SPECS: Final[dict[str, dict[str, Any]]] = {
    "PrometheusRule": {
        "type": "object",
        "required": ["groups"],
        "additionalProperties": False,
        "properties": {"groups": {"type": "array", "minItems": 1, "items": _GROUP}},
    },
    "ServiceMonitor": {
        "type": "object",
        "required": ["selector", "endpoints"],
        "additionalProperties": False,
        "properties": {
            "jobLabel": _TEXT,
            "selector": {
                "type": "object",
                "required": ["matchLabels"],
                "additionalProperties": False,
                "properties": {
                    "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}
                },
            },
            "endpoints": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["port"],
                    "additionalProperties": False,
                    "properties": {
                        "port": _TEXT,
                        "path": {"type": "string", "pattern": "^/"},
                        "interval": {"type": "string", "pattern": "^[0-9]+(s|m)$"},
                        "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(s|m)$"},
                    },
                },
            },
        },
    },
}
"""The parts of the Prometheus operator's own schemas that are used here, as its API reference
(monitoring.coreos.com/v1) has them; no package carries the schemas themselves."""


def linted(folder: Path) -> str:
    helm = program("helm", "make .venv-deploy")
    for options in _VARIANTS.values():
        ran([helm, "lint", "--strict", str(CHART), *options], environ=_home(folder))
    for what, option in _REFUSED.items():
        try:
            ran([helm, "lint", "--strict", str(CHART), option], environ=_home(folder))
        except Failed:
            continue
        raise Failed(f"the chart takes {what}: {option}")
    version = ran([helm, "version", "--template={{.Version}}"], environ=_home(folder))
    return f"helm {version}: {len(_VARIANTS)} variants, {len(_REFUSED)} mistakes refused"


def packaged(folder: Path) -> str:
    helm = program("helm", "make .venv-deploy")
    ran([helm, "package", str(CHART), "--destination", str(folder)], environ=_home(folder))
    (archive,) = folder.glob("*.tgz")
    ran([helm, "template", "glm-proxy", str(archive)], environ=_home(folder))
    return f"{archive.name}, {archive.stat().st_size >> 10} KB"


def accepted(folder: Path) -> str:
    """Every manifest of every variant, against the schemas of several versions of Kubernetes."""
    validate = program("kubernetes-validate", "make .venv-deploy")
    files, count = [], 0
    for name, text in _rendered(folder).items():
        own = [one for one in _documents(text) if one["kind"] not in _SPECS]
        files.append(folder / f"{name.replace(' ', '-')}.yaml")
        files[-1].write_text(yaml.safe_dump_all(own), "utf-8")
        count += len(own)
        _operators(name, text, folder)
    for version in VERSIONS:
        told = ran([validate, "--strict", "-k", version, *map(str, files)])
        if told.count(" passed for resource ") != count or "WARN" in told:
            raise Failed(f"Kubernetes {version}: {told}")
    return f"{count} manifests, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}, strictly"


def _operators(name: str, text: str, folder: Path) -> None:
    for one in _documents(text):
        if one["kind"] not in _SPECS:
            continue
        if one["apiVersion"] != "monitoring.coreos.com/v1":
            raise Failed(f"{name}: {one['kind']} has the version {one['apiVersion']}")
        schema, spec = folder / "schema.json", folder / "spec.json"
        schema.write_text(json.dumps(_SPECS[one["kind"]]), "utf-8")
        spec.write_text(json.dumps(one["spec"]), "utf-8")
        checker = program("check-jsonschema", "make .venv-deploy")
        ran([checker, "--schemafile", str(schema), str(spec)])


def rules_hold(folder: Path) -> str:
    """What the cluster's Prometheus would get is what promtool accepts."""
    promtool = program("promtool", "Debian: prometheus")
    found = 0
    for name, text in _rendered(folder).items():
        for one in _documents(text):
            if one["kind"] == "PrometheusRule":
                path = folder / "rules.yml"
                path.write_text(yaml.safe_dump({"groups": one["spec"]["groups"]}), "utf-8")
                ran([promtool, "check", "rules", str(path)])
                found += 1
        if name == "everything on" and not found:
            raise Failed("the chart rendered no PrometheusRule")
    return f"{found} PrometheusRules"


def the_same(folder: Path) -> str:
    """Chart and Kustomize folder: the same objects, but for names, labels and what only one has."""
    texts = _rendered(folder)
    chart, base = _by_kind(texts["everything on"]), _by_kind(texts["kustomize"])
    base.pop(("Namespace", "glm-proxy"), None)
    if chart.keys() != base.keys():
        raise Failed(f"only in one of the two: {sorted(chart.keys() ^ base.keys())}")
    for key, one in chart.items():
        if one != base[key]:
            raise Failed(f"{key} differs:\n{_difference(one, base[key])}")
    return f"{len(chart)} objects"


def settings_taken(folder: Path) -> str:
    """The settings in each rendered ConfigMap are ones that the proxy starts with."""
    count = 0
    for text in _rendered(folder).values():
        for one in _documents(text):
            if one["kind"] == "ConfigMap" and "proxy.yaml" in one["data"]:
                path = folder / "rendered" / "proxy.yaml"
                path.parent.mkdir(exist_ok=True)
                path.write_text(one["data"]["proxy.yaml"], "utf-8")
                own = folder / f"own-{count}"
                own.mkdir()
                load(loadable(path, own), {})
                count += 1
    if count < len(_VARIANTS) + 1:
        raise Failed(f"{count} ConfigMaps with settings")
    return f"{count} ConfigMaps"


def _rendered(folder: Path) -> dict[str, str]:
    helm, kubectl = (program(name, "make .venv-deploy") for name in ("helm", "kubectl"))
    texts = {
        name: ran(
            [helm, "template", "glm-proxy", str(CHART), "--namespace=glm-proxy", *options],
            environ=_home(folder),
        )
        for name, options in _VARIANTS.items()
    }
    texts["kustomize"] = ran([kubectl, "kustomize", str(EXAMPLE)], environ=_home(folder))
    return texts


def _home(folder: Path) -> dict[str, str]:
    """helm keeps caches at home, and asks nobody where it has none."""
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "KUBECONFIG": str(folder / "none")}


def _documents(text: str) -> Iterator[dict[str, Any]]:
    yield from (one for one in yaml.safe_load_all(text) if one)


def _by_kind(text: str) -> dict[tuple[str, str], Any]:
    found = {}
    for one in _documents(text):
        name = one["metadata"]["name"]
        if one["kind"] == "ConfigMap" and "proxy.yaml" in one["data"]:
            name = one["metadata"]["name"] = "settings"  # Kustomize's has a hash
            one["data"] = {"proxy.yaml": yaml.safe_load(one["data"]["proxy.yaml"])}
        if one["kind"] == "ConfigMap" and "proxy.yaml" not in one["data"]:
            one["data"] = {name: json.loads(text) for name, text in one["data"].items()}
        found[one["kind"], name] = _plain(one)
    return found


_OWN: Final = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
    "checksum/settings",
    "namespace",
    "imagePullPolicy",
    "image",
)
"""What says by which way something came, and what that way alone can say."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _plain(one) for key, one in value.items() if key not in _OWN}
        kept = {key: one for key, one in kept.items() if one != {} or key == "podSelector"}
        if "configMap" in kept:
            kept["configMap"] = "settings"
        if kept.get("type") == "ClusterIP":  # the default
            del kept["type"]
        return kept
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _difference(one: Any, other: Any, where: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        parts = [_difference(one.get(key), other.get(key), f"{where}.{key}") for key in keys]
        return "\n".join(part for part in parts if part)
    return "" if one == other else f"  {where}: {one!r} in the chart, {other!r} in the folder"
