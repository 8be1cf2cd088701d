"""What Grafana reads at its start: where the data is, where the dashboards are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grafana.source.promql import JOB

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "grafana" / "provisioning"
DETAIL = ROOT / "proxy" / "admin" / "page" / "detail.js"


def provisioned(kind: str) -> dict[str, Any]:
    (path,) = (PROVISIONING / kind).glob("*.yaml")
    read: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    assert read["apiVersion"] == 1
    return read


def test_the_data_source_is_a_prometheus_with_links_from_exemplars() -> None:
    (source,) = provisioned("datasources")["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
    (link,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == "request_id"
    # Twice the dollar: Grafana would take one for a variable of its environment.
    assert link["url"].endswith(":9090/#exchange=$${__value.raw}")
    readme = (ROOT / "grafana" / "README.md").read_text("utf-8")
    assert f"`{link['url'].replace('$$', '$')}`" in readme
    assert 'const LINK = "#exchange=";' in DETAIL.read_text("utf-8")


def test_rates_have_four_scrapes() -> None:
    (source,) = provisioned("datasources")["datasources"]
    scraping = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    every = int(scraping["global"]["scrape_interval"].removesuffix("s"))
    assert int(source["jsonData"]["timeInterval"].removesuffix("s")) >= every


def test_the_scrape_job_is_the_one_that_dashboards_ask_for() -> None:
    scraping = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    assert JOB in [job["job_name"] for job in scraping["scrape_configs"]]


def test_the_dashboards_are_where_the_readme_puts_them() -> None:
    (provider,) = provisioned("dashboards")["providers"]
    assert provider["type"] == "file"
    readme = (ROOT / "grafana" / "README.md").read_text("utf-8")
    assert f"dashboards:{provider['options']['path']}:ro" in readme
    assert f"grafana/dashboards/*.json {provider['options']['path']}/" in readme
